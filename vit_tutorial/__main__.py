"""The command line: train, finetune, evaluate, predict, export, info."""

import argparse
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from math import gcd, prod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

try:  # the libraries take seconds
    import torch

    from vit_tutorial.attention_maps import attention_rollout, class_token_maps
    from vit_tutorial.data import NAMES, Data, default_dataset
    from vit_tutorial.errors import shown, unknown
    from vit_tutorial.figures import sheets
    from vit_tutorial.lab import recipes
    from vit_tutorial.lab.export import export_onnx, export_page
    from vit_tutorial.lab.folders import load
    from vit_tutorial.lab.listing import PICTURES
    from vit_tutorial.lab.recipes import CHOICES, PLAIN, PRESETS, Recipe, model_config
    from vit_tutorial.lab.report import html_report
    from vit_tutorial.lab.run import Run, count, fit
    from vit_tutorial.model import VARIANTS, VisionTransformer, ViTConfig, variant
    from vit_tutorial.train import default_device, evaluate
    from vit_tutorial.transfer import transfer
    from vit_tutorial.weights import checkpoint
    from vit_tutorial.weights.files import is_a
    from vit_tutorial.weights.hub import ADDRESS, from_checkpoint, with_more
    from vit_tutorial.weights.preprocessing import Preprocessing
except KeyboardInterrupt:
    print("vit-tutorial: stopped", file=sys.stderr)
    sys.exit(130)

EXAMPLES = """examples:
  vit-tutorial train                              MNIST, or the digits, with sensible defaults
  vit-tutorial train --preset mnist-best --out runs/best   the most accurate, in an hour
  vit-tutorial train --preset mnist-p4 --out runs/p4   the model that is shipped
  vit-tutorial train --data folder:photos
  vit-tutorial train --out runs/p4 --resume       go on where it was stopped
  torchrun --nproc-per-node=2 -m vit_tutorial train --preset mnist --out runs/two
  vit-tutorial finetune --data folder:photos --weights runs/p4/model.safetensors
  vit-tutorial evaluate --weights runs/p4/model.safetensors --data mnist
  vit-tutorial predict seven.png --maps seven_maps.png
  vit-tutorial export --onnx mnist.onnx
  vit-tutorial info B/16
"""
FINETUNE_EXAMPLES = """examples:
  vit-tutorial finetune --data folder:photos --weights timm:vit_tiny_patch16_224
  vit-tutorial finetune --data folder:digits --weights runs/p4/model.safetensors --image-size 56
  vit-tutorial finetune --data folder:digits --frozen --epochs 10

The folder holds one sub-folder of images for each class, or `train`, `val` and `test` folders of
such. For photographs start from timm's weights (pip install "vit-tutorial[compare]", a network).
report.html in the output folder says how good the model is and shows where it fails.
"""
KINDS: dict[str, dict[str, Any]] = {  # of options, by the letter that stands for their value
    "N": {"type": int}, "X": {"type": float}, "NAME": {}, "DIR": {"type": Path}, "FILE": {},
    "OUT.png": {"type": Path}, "": {"action": "store_true"},
}  # fmt: skip
OPTIONS = {  # the value, and what --help says
    "data": ("NAME", f"{', '.join(NAMES)} or folder:PATH (train: mnist, else digits)"),
    "root": ("DIR", "where downloaded data sets lie"),
    "image-size": ("N", "pixels of the images (default: as they are; the model's; info: 224)"),
    "weights": ("FILE", 'a file that "train" wrote, or a shipped model'),
    "preset": ("NAME", f"start from one of {', '.join(PRESETS)}"),
    "patch-size": ("N", "P"),
    "layers": ("N", "L"),
    "hidden-size": ("N", "D"),
    "mlp-size": ("N", "between the two layers of the MLP"),
    "heads": ("N", "h"),
    "dropout": ("X", "share of activations dropped"),
    "positions": ("NAME", "learned, sincos or none"),
    "pool": ("NAME", "token or mean"),
    "epochs": ("N", "passes over the training images"),
    "batch-size": ("N", "images a step (finetune: an eighth of all, at most 128)"),
    "learning-rate": ("X", "at its peak (finetune: 0.001, with --frozen 0.01)"),
    "weight-decay": ("X", "of the matrices"),
    "warmup": ("X", "share of all steps"),
    "gradient-clip": ("X", "largest norm of all gradients together"),
    "augment": ("X", "strength of turning, scaling...; 0 for none"),
    "muon-rate": ("X", "learning rate of the blocks' matrices with muon"),
    "average": ("X", "decay of the exponential moving average of the weights; 0 for none"),
    "label-smoothing": ("X", "share of each label that is spread evenly over all classes"),
    "cutmix": ("X", "alpha of CutMix; 0 for none"),
    "drop-patches": ("X", "share of patches that most steps leave out (with a class token)"),
    "optimizer": ("NAME", " or ".join(CHOICES["optimizer"])),
    "augmentation": ("NAME", " or ".join(CHOICES["augmentation"])),
    "frozen": ("", "train nothing but the new head"),
    "layer-decay": ("X", "a block's learning rate as a share of the next one's"),
    "seed": ("N", "of everything random"),
    "out": ("DIR", "where the run is kept (default: runs/DATA-seedN, runs/finetune-DATA-seedN)"),
    "resume": ("", "go on with what --out holds"),
    "save-minutes": ("X", "save the state this often, and after every epoch"),
    "device": ("NAME", "cuda, mps or cpu (default: the first there is)"),
    "precision": ("NAME", " or ".join(CHOICES["precision"])),
    "accumulate": ("N", "micro-batches a step, to save memory"),
    "compile": ("", "use torch.compile, which takes minutes before the first step"),
    "parallel": (
        "NAME",
        "ddp: each of torchrun's processes holds the whole model; fsdp: a share of it",
    ),
    "split": ("NAME", "train, val or test"),
    "top": ("N", "classes to print"),
    "invert": ("", "for dark ink on light paper"),
    "maps": ("OUT.png", "draw what the class token reads"),
    "classes": ("N", "default 1000"),
    "page": ("DIR", "write the weights and test values of the live page"),
    "int8": ("FILE", "with --page: write the rounded weights as a checkpoint, with a card"),
    "onnx": ("FILE", "write an ONNX file for batches of any size"),
}
DRAWN = 60  # images whose maps `predict` draws at most
PART = 2**20  # pixels of the images that `predict` gives the model at a time
AT_MOST = 64  # pixels a side: the images of a folder that are larger are brought to it
DATA = "data root image-size"
MODEL = "patch-size layers hidden-size mlp-size heads dropout positions pool"
RECIPE = (
    "epochs batch-size learning-rate weight-decay warmup gradient-clip augment muon-rate average "
    "label-smoothing cutmix drop-patches optimizer augmentation"
)
RUN = "seed out resume save-minutes device precision accumulate compile"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 after an error, or 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in ("stdout", "stderr"):  # None where the shell closed it
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show is escaped
        setattr(sys, name, stream)
    if any(word == "" or (word[:2] == "--" and word[-1:] == "=") for word in arguments):
        parser().error("an argument is empty: is a variable of the shell not set?")
    args = parser().parse_args(arguments)
    args.command = shlex.join(["vit-tutorial", *arguments])
    flags = {word.partition("=")[0] for word in arguments}
    args.given = [name for name in vars(args) if f"--{name.replace('_', '-')}" in flags]
    debug = vars(args).pop("debug")
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one changes nothing now
        print(f"\nvit-tutorial: stopped {stop}".rstrip(), file=sys.stderr)
        signal.signal(signal.SIGINT, usual)
        return 130
    except Exception as error:  # whatever it is, a user sees one line
        said = " ".join(str(error).split())  # torch and torchvision write several
        if not isinstance(error, ValueError | OSError):
            first = (str(error).strip().splitlines() or [""])[0]
            said = f"{type(error).__name__}: {first} (--debug shows where)"
        print(f"vit-tutorial: error: {shown(said, 2000)}", file=sys.stderr)
        if debug:
            traceback.print_exc()
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, a closed pipe: Python would try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """Escapes what is wrong with a command, as all messages do."""

    def error(self, message: str) -> Any:
        super().error(shown(message, 2000))


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the examples and prints defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        told = action.default in (None, argparse.SUPPRESS) or action.default is False
        return action.help if told else f"{action.help} (default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    about = "A small Vision Transformer: train it, test it, ask it, look inside."
    top = Parser(prog="vit-tutorial", description=about, epilog=EXAMPLES, formatter_class=Help)
    said = f"vit-tutorial {version('vit-tutorial')}"
    top.add_argument("--version", action="version", version=said)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str, groups: dict[str, str]) -> Any:
        sub = commands.add_parser(
            name, help=about, description=about, formatter_class=Help, allow_abbrev=False,
            epilog=FINETUNE_EXAMPLES if name == "finetune" else EXAMPLES,
        )  # fmt: skip
        for title, options in groups.items():
            group = sub.add_argument_group(title)
            for option in options.split():
                value, said = OPTIONS[option]
                settings = KINDS[value] | ({"metavar": value} if value else {})
                group.add_argument(f"--{option}", help=said, **settings)
        sub.add_argument("--debug", action="store_true", help="show where an error came from")
        sub.set_defaults(run=run)
        return sub

    about = "Train a model and keep it, with curves and a picture."
    groups = {
        "data": f"{DATA} preset",
        "the model (default: the preset's)": MODEL,
        "the recipe (default: the preset's)": RECIPE,
        "the run": f"{RUN} parallel",
    }
    sub = command("train", run_train, about, groups)
    sub.set_defaults(seed=0, save_minutes=5.0, parallel="ddp")
    about = "Put a trained model to work on your own images."
    recipe = "frozen layer-decay epochs batch-size learning-rate augment"
    groups = {"data": f"weights {DATA}", "the recipe": recipe, "the run": RUN}
    sub = command("finetune", run_finetune, about, groups)
    sub.set_defaults(layer_decay=0.75, epochs=30, augment=0.5, seed=0, save_minutes=5.0)
    sub.set_defaults(weights="mnist")
    about = "Loss and accuracy of a model on a data set."
    sub = command("evaluate", run_evaluate, about, {"data": "weights data root split"})
    sub.set_defaults(weights="mnist", data="mnist", split="test")
    about = "The most likely classes of images."
    sub = command("predict", run_predict, about, {"the answer": "weights top invert maps"})
    sub.set_defaults(weights="mnist", top=3)
    sub.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    about = "A model where there is no PyTorch: for the live page, or as ONNX."
    sub = command("export", run_export, about, {"the model": "weights", "files": "page int8 onnx"})
    sub.set_defaults(weights="mnist")
    about = "Shapes and parameters of a published size."
    sub = command("info", run_info, about, {"changes": "image-size classes"})
    sub.add_argument("variant", metavar="VARIANT", help=", ".join(VARIANTS))
    return top


def run_train(args: argparse.Namespace) -> None:
    """Train, and leave weights, history, curves and an attention picture in a folder."""
    if args.preset is not None and args.preset not in PRESETS:
        raise unknown("preset", args.preset, PRESETS)
    if args.data is None and not (args.resume and args.out):  # then the state there names it
        made_for = (args.preset or "").partition("-")[0]
        named = [name for name in NAMES if made_for and name.startswith(made_for)]
        args.data = named[0] if named else default_dataset()
    args.out = args.out or usual_out(args, "")
    if not fit(args, new_run, draw_pictures, PICTURES):
        advise(args, "that is not surely better: more epochs may help")


def usual_out(args: argparse.Namespace, kind: str) -> Path:
    """The folder of a run that is not told where to go, named after its data."""
    name = Path((args.data or "").removeprefix("folder:")).expanduser().resolve().name[:60]
    return Path("runs") / f"{kind}{name}-seed{args.seed}"


def advise(args: argparse.Namespace, why: str, *others: str) -> None:
    """A note on standard error on somebody's own images: why, and what is worth a try.

    First weights of timm, where it is installed and a network is there.
    """
    if not args.data.startswith("folder:"):
        return
    data = shlex.quote(args.data)
    ways = [f"vit-tutorial {way} --data {data}" for way in others]
    large = f"vit-tutorial finetune --data {data} --weights timm:vit_tiny_patch16_224"
    there = find_spec("timm") and reachable()
    ways = [large, *ways] if there else [*ways, f"{large} (needs timm and a network)"]
    said = f"{why}; try {', or '.join(ways)}"
    print(f"vit-tutorial: note: {shown(said, 2000)}", file=sys.stderr)


def reachable() -> bool:
    """Whether the machine that timm fetches from answers within two seconds."""
    try:
        socket.create_connection((urlsplit(ADDRESS).hostname, 443), timeout=2).close()
    except OSError:
        return False
    return True


def new_run(args: argparse.Namespace) -> Run:
    """A new model for the data."""
    data = own_data(args, image_size=args.image_size, at_most=AT_MOST)
    config, recipe = configure(args, data)
    recipes.check_memory(config, recipe)
    return Run(args, VisionTransformer(config), data, recipe)


def own_data(args: argparse.Namespace, **reading: Any) -> Data:
    """The data set to train on; ValueError unless there are classes to tell apart."""
    files = vars(args).get("files")  # of a training that is resumed
    data = load(args.data, args.root, args.seed, apart=True, only=files, **reading)
    if len(data.classes) < 2:
        raise ValueError(
            f"{shown(data.name)} has one class, {shown(data.classes[0])!r}: expected at least two"
        )
    return data


def configure(args: argparse.Namespace, data: Data) -> tuple[ViTConfig, Recipe]:
    """The preset, changed by what the options say; P is chosen by size if the preset's is none."""
    preset = PRESETS[args.preset] if args.preset else recipes.usual_preset(data)
    shape: dict[str, Any] = dict(preset.model)
    side = gcd(*data.train.images.shape[-2:])
    if args.preset is None and side % shape["patch_size"]:  # about eight patches a side
        divisors = [P for P in range(1, side + 1) if side % P == 0]
        shape["patch_size"] = min(divisors, key=lambda P: abs(P - side / 8))
    names = (*shape, "dropout", "positions", "pool")
    shape |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    size = recipes.batch_size(len(data.train), preset.training.batch_size)
    recipe = replace(preset.training, batch_size=size)
    return model_config(data, shape), replace(recipe, **recipe_options(args, recipe))


def recipe_options(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """The parts of a recipe that an option names."""
    options = {name: getattr(args, name, None) for name in asdict(recipe)}
    return {name: value for name, value in options.items() if value is not None}


def draw_pictures(run: Run, logits: torch.Tensor, history: list[dict[str, Any]]) -> None:
    """How training went, and what the model looks at."""
    checkpoint.write(run.args.out / "curves.png", sheets.history_picture(history))
    few, test = run.data.test.images[:4].float() / 255, run.data.test
    maps = read_maps(run.model, test.normalise(few))
    checkpoint.write(run.args.out / "attention.png", sheets.maps_picture(few, *maps))


def read_maps(model: VisionTransformer, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the class token reads in each head of each block, and by rollout."""
    maps, grid = model.attention_maps(images).float(), model.config.grid
    return class_token_maps(maps, *grid), class_token_maps(attention_rollout(maps), *grid)


def run_finetune(args: argparse.Namespace) -> None:
    """Give a trained model a new head, train it on other images, and report on the test split."""
    if args.data is None and not (args.resume and args.out):
        raise ValueError("--data is missing: expected folder:PATH or the name of a data set")
    if args.frozen and "layer_decay" in args.given:
        raise ValueError("--layer-decay has no meaning with --frozen: only the head is trained")
    args.out = args.out or usual_out(args, "finetune-")
    if not fit(args, finetune_run, write_report, ("report.html",)):
        why = f"that is not surely better: what {shown(args.weights)} knows helps little here"
        advise(args, why, "train")


def finetune_run(args: argparse.Namespace) -> Run:
    """A trained model with its new head, and the images as it reads them."""
    old, preparation = from_checkpoint(args.weights)
    old = old.float()  # half precision is for answers, not for training
    size = old.config.image_size if args.image_size is None else args.image_size
    config = replace(old.config, image_size=size)  # a wrong size is said before images are read
    preparation = replace(
        preparation, height_width=config.height_width, resize=None, interpolation="bicubic"
    )
    data = own_data(args, prepared=preparation)
    if args.weights == "mnist" and not args.resume:
        advise(args, "these weights know grey digits alone, which helps little elsewhere", "train")
    recipe = finetune_recipe(args, len(data.train))
    recipes.check_memory(replace(config, classes=len(data.classes)), recipe, args.frozen)
    train, val, test = map(preparation.split, (data.train, data.val, data.test))
    model = transfer(old, len(data.classes), size, args.frozen)
    return Run(args, model, replace(data, train=train, val=val, test=test), recipe)


def finetune_recipe(args: argparse.Namespace, images: int) -> Recipe:
    """What the options say; a batch size that a small folder can fill at least once."""
    if args.batch_size is not None and args.batch_size > images:
        raise ValueError(f"--batch-size {args.batch_size} is more than the {images} images")
    rate = 0.01 if args.frozen else 0.001
    recipe = replace(PLAIN, batch_size=recipes.batch_size(images, 128), learning_rate=rate)
    return replace(
        recipe, **recipe_options(args, recipe) | ({"layer_decay": 1.0} if args.frozen else {})
    )


def write_report(run: Run, logits: torch.Tensor, history: list[dict[str, Any]]) -> None:
    """The page that says how good the model is."""
    facts = run.described() | {
        "Training": f"{len(history)} epochs in {sum(e['seconds'] for e in history):.0f} s",
        "Command": run.args.command,
    }
    page = html_report(run.model.eval(), run.data, logits, history, facts)
    checkpoint.write(run.args.out / "report.html", page.encode())


def run_evaluate(args: argparse.Namespace) -> None:
    """Print accuracy and loss on one split."""
    if args.split not in ("train", "val", "test"):
        raise unknown("--split", args.split, ("train", "val", "test"))
    model, preparation, more = model_with_head(args.weights)
    # another seed would put images into the test split that the model was trained on
    seed, known = more.get("seed", 0), more.get("files")
    if not is_a(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"the seed in {args.weights} is {seed!r}, expected 0 to 2**63 - 1")
    data = load(args.data, args.root, seed, known=known, prepared=preparation)
    if tuple(data.classes) != preparation.classes:
        raise ValueError(
            f"{args.weights} knows the classes {brief(preparation.classes)}, "
            f"{data.name} has {brief(data.classes)}"
        )
    if args.data.startswith("folder:"):  # whose images were resized and cropped as they were read
        preparation = replace(preparation, resize=None)
    split, device = preparation.split(getattr(data, args.split)), default_device()
    if not len(split):
        raise ValueError(f"none of the images is of the split {args.split}")
    model = model.float() if device.type == "mps" else model  # which knows no float64
    loss, accuracy = evaluate(model.to(device), split)
    check_answers(args.weights, torch.tensor(loss))
    wrong = round((1 - accuracy) * len(split))
    print(
        f"{shown(data.name)}, {args.split}: accuracy {accuracy:.2%} ({wrong} of {len(split)} "
        f"wrong), loss {loss:.4f}"
    )


def model_with_head(name: str) -> tuple[VisionTransformer, Preprocessing, dict[str, Any]]:
    """`with_more`; ValueError for a model that names no classes."""
    found = with_more(name)
    if not found[1].classes:
        raise ValueError(f"{name} has no head: it gives features, but names no classes")
    return found


def check_answers(name: str, found: torch.Tensor) -> None:
    """Raise ValueError if a model has answered with NaN or infinity."""
    if not found.isfinite().all():
        raise ValueError(f"{name} answers with NaN or infinity: its weights are too large")


def brief(names: Sequence[object]) -> str:
    """How many names, and the first few."""
    return f"({len(names)}) {', '.join(map(shown, names[:3]))}{', ...' if len(names) > 3 else ''}"


def run_predict(args: argparse.Namespace) -> None:
    """Print the top classes of every image; perhaps draw what was read."""
    model, preparation, _ = model_with_head(args.weights)
    if args.top < 1:
        raise ValueError(f"--top must be at least 1, got {args.top}")
    check_maps(args)
    answers, drawn, maps, light = [], [], [], []
    light_ink = len(preparation.mean) == 1 and preparation.mean[0] < 0.5  # is what the model knows
    size = PART // prod(preparation.height_width) or 1
    for start in range(0, len(args.images), size):
        paths = args.images[start : start + size]
        pixels = torch.cat([preparation.pixels(path) for path in paths])
        pixels = 1 - pixels if args.invert else pixels
        light += [path for path, image in zip(paths, pixels, strict=True) if on_light(image)]
        images = preparation.normalise(pixels).to(next(model.parameters()).dtype)
        with torch.no_grad():
            answers.append(model(images).float().softmax(dim=-1))
        check_answers(args.weights, answers[-1])
        if args.maps is not None and start < DRAWN:
            drawn.append(pixels[: DRAWN - start])
            maps.append(read_maps(model, images[: DRAWN - start]))
    if light and light_ink and not args.invert:
        note = f"the border is light in {brief(light)}: for dark ink on light paper give --invert"
        print(f"vit-tutorial: note: {note}", file=sys.stderr)
    for path, row in zip(args.images, torch.cat(answers), strict=True):
        best = row.topk(min(args.top, len(row)))
        said = (
            f"{shown(preparation.classes[label])} {share:.1%}"
            for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        print(f"{shown(path)}: {', '.join(said)}")
    if args.maps is not None:
        kind = args.maps.suffix[1:].lower()
        heads, rollout = (torch.cat(part) for part in zip(*maps, strict=True))
        drawing = sheets.maps_picture(torch.cat(drawn), heads, rollout, kind)
        checkpoint.write(args.maps, drawing)
        reader = "the class token reads" if model.config.pool == "token" else "all tokens read"
        few = f" of the first {DRAWN} images" if len(args.images) > DRAWN else ""
        print(f"what {reader}{few}: {shown(args.maps)}")


def check_maps(args: argparse.Namespace) -> None:
    """Raise ValueError, before anything is computed, if --maps cannot be written."""
    path = args.maps
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise ValueError(f"--maps {path}: expected a name that ends in .png, .pdf, .svg or .jpg")
    check_place("--maps", path)
    if path.exists() and any(image.exists() and path.samefile(image) for image in args.images):
        raise ValueError(f"--maps {path} is one of the images: give another name")


def check_place(option: str, path: Path) -> None:
    """Raise ValueError if no file can have that path."""
    if path.is_dir() or not path.parent.is_dir():
        wrong = "it is a folder" if path.is_dir() else f"no such folder: {path.parent}"
        raise ValueError(f"{option} {path}: {wrong}")


def on_light(image: torch.Tensor) -> bool:
    """Whether more than half of the pixels at the border of an image (C H W) are light."""
    sides = image[:, [0, -1]].flatten(), image[:, :, [0, -1]].flatten()
    return bool(torch.cat(sides).median() > 0.5)


def run_export(args: argparse.Namespace) -> None:
    """Write what was asked for, and name the files."""
    if not (args.page or args.onnx) or (args.int8 and not args.page):
        raise ValueError("expected --page DIR (perhaps with --int8 FILE) or --onnx FILE")
    made = []
    if args.onnx:
        check_place("--onnx", Path(args.onnx))
    if args.page:
        int8 = Path(args.int8) if args.int8 else None
        made += export_page(args.weights, args.page, int8, args.command)
    if args.onnx:
        export_onnx(from_checkpoint(args.weights)[0].float(), Path(args.onnx))
        made.append(Path(args.onnx))
    print(*made, sep="\n")


def run_info(args: argparse.Namespace) -> None:
    """Print the shapes from image to logits and the parameters of each part."""
    stated = {"image_size": args.image_size, "classes": args.classes}
    config = variant(args.variant, **{k: v for k, v in stated.items() if v is not None})
    (H, W), (rows, cols), D = config.height_width, config.grid, config.hidden_size
    try:
        with torch.device("meta"):  # shapes without memory
            model = VisionTransformer(config)
    except (TypeError, RuntimeError) as error:  # a size past 2 ** 63
        said = f"no tensor holds {config.classes} classes of images of {H} x {W} pixels"
        raise ValueError(said) from error
    N, P, C = rows * cols, config.patch_size, config.channels
    T = N + 1
    steps = [
        ("image", f"{C} x {H} x {W}", 0),
        ("patches", f"{N} x {C * P * P}", 0),
        ("tokens", f"{T} x {D}", count(model.embedding)),
        (f"{config.layers} blocks of {config.heads} heads", f"{T} x {D}", count(model.encoder)),
        ("logits", f"{config.classes}", count(model.head)),
    ]
    print(f"{args.variant}, patches of {P} x {P} pixels, MLP of {config.mlp_size}")
    for name, shape, parameters in steps:
        print(f"  {name:<24}{shape:>16}{parameters:>16,}")
    print(f"  {'parameters':<40}{count(model):>16,}")


if __name__ == "__main__":
    sys.exit(main())
