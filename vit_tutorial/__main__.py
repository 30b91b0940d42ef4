"""The command line: train, finetune, evaluate, predict, info."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from math import gcd
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from vit_tutorial import checkpoint, plots
from vit_tutorial.attention_maps import class_token_maps
from vit_tutorial.data import NAMES, Data, default_dataset, load
from vit_tutorial.errors import unknown
from vit_tutorial.model import VARIANTS, VisionTransformer, ViTConfig, variant
from vit_tutorial.report import html_report, show_history
from vit_tutorial.runs import Run, count, fit
from vit_tutorial.train import (
    CHOICES,
    PRESETS,
    TrainConfig,
    default_device,
    evaluate,
    model_config,
)
from vit_tutorial.transfer import adapt, transfer

EXAMPLES = """examples:
  vit-tutorial train                              MNIST, or the digits, with sensible defaults
  vit-tutorial train --preset mnist-best --out runs/best   the most accurate, in an hour
  vit-tutorial train --preset mnist-p4 --out runs/p4   the model that is shipped
  vit-tutorial train --data folder:photos --image-size 64 --patch-size 8
  vit-tutorial train --out runs/p4 --resume       go on where it was stopped
  torchrun --nproc-per-node=2 -m vit_tutorial train --preset mnist --out runs/two
  vit-tutorial finetune --data folder:photos --weights runs/p4/model.safetensors
  vit-tutorial evaluate --weights runs/p4/model.safetensors --data mnist
  vit-tutorial predict seven.png --maps seven_maps.png
  vit-tutorial info B/16
"""

FINETUNE_EXAMPLES = """examples:
  vit-tutorial finetune --data folder:photos --weights runs/p4/model.safetensors
  vit-tutorial finetune --data folder:photos --frozen --epochs 10
  vit-tutorial finetune --data folder:photos --image-size 56 --learning-rate 0.0005

The folder holds one sub-folder of images for each class, or `train` and `test` folders of such.
report.html in the output folder says how good the model is and shows where it fails.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 for wrong input, or 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    args.command = shlex.join(["vit-tutorial", *arguments])
    flags = {word.partition("=")[0] for word in arguments}
    args.given = [name for name in vars(args) if f"--{name.replace('_', '-')}" in flags]
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        line = " ".join(str(error).split())  # torch and torchvision write several
        print(f"vit-tutorial: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nvit-tutorial: stopped {stop}".rstrip(), file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="vit-tutorial",
        description="A small Vision Transformer: train it, test it, ask it, look inside.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "--version", action="version", version=f"vit-tutorial {version('vit-tutorial')}"
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=about, description=about, epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        sub.set_defaults(run=run)
        return sub

    sub = command("train", run_train, "Train a model and keep it, with curves and a picture.")
    data_options(sub, default=None)
    sub.add_argument("--preset", metavar="NAME", help=f"start from one of {', '.join(PRESETS)}")
    shape = sub.add_argument_group("the model (default: the preset's)")
    for name in ("patch-size", "layers", "hidden-size", "mlp-size", "heads"):
        shape.add_argument(f"--{name}", type=int, metavar="N")
    shape.add_argument("--dropout", type=float, metavar="P", help="share of activations dropped")
    shape.add_argument("--positions", help="learned, sincos or none")
    shape.add_argument("--pool", help="token or mean")
    recipe = sub.add_argument_group("the recipe (default: the preset's)")
    for name, kind in (("epochs", int), ("batch-size", int)):
        recipe.add_argument(f"--{name}", type=kind, metavar="N")
    for name in ("learning-rate", "weight-decay", "warmup", "gradient-clip"):
        recipe.add_argument(f"--{name}", type=float, metavar="X")
    said = {
        "augment": "strength of turning, scaling...; 0 for none",
        "muon-rate": "learning rate of the blocks' matrices with muon",
        "average": "use a running mean of the weights that keeps X of itself at a step",
        "label-smoothing": "share of a label that is spread over all classes",
        "cutmix": "alpha of the share of an image that is pasted into another",
    }
    for name, about in said.items():
        recipe.add_argument(f"--{name}", type=float, metavar="X", help=about)
    for name in ("optimizer", "augmentation"):
        recipe.add_argument(f"--{name}", metavar="NAME", help=" or ".join(CHOICES[name]))
    run_options(sub, "runs/DATA-seedN")

    sub = command("finetune", run_finetune, "Put a trained model to work on your own images.")
    finetune_options(sub)

    sub = command("evaluate", run_evaluate, "Loss and accuracy of a model on a data set.")
    weights_option(sub)
    data_options(sub, default="mnist")
    sub.add_argument("--split", default="test", choices=("train", "val", "test"))

    sub = command("predict", run_predict, "The most likely classes of images.")
    sub.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    weights_option(sub)
    sub.add_argument("--top", type=int, default=3, metavar="N", help="classes to print (default 3)")
    sub.add_argument("--invert", action="store_true", help="for dark ink on light paper")
    sub.add_argument("--maps", type=Path, metavar="OUT.png", help="draw what the class token reads")

    sub = command("info", run_info, "Shapes and parameters of a published size.")
    sub.add_argument("variant", metavar="VARIANT", help=", ".join(VARIANTS))
    sub.add_argument("--image-size", type=int, metavar="N", help="pixels (default 224)")
    sub.add_argument("--classes", type=int, metavar="K", help="default 1000")
    return top


def finetune_options(sub: argparse.ArgumentParser) -> None:
    """What `finetune` can be told."""
    sub.epilog = FINETUNE_EXAMPLES
    sub.add_argument("--data", required=True, metavar="NAME", help="folder:PATH, or as for train")
    sub.add_argument("--root", type=Path, metavar="DIR", help="where downloaded data sets lie")
    weights_option(sub)
    sub.add_argument("--image-size", type=int, metavar="N", help="pixels (default: the model's)")
    part = sub.add_mutually_exclusive_group()
    part.add_argument("--frozen", action="store_true", help="train nothing but the new head")
    said = "a block's learning rate as a share of the next one's (default 0.75)"
    part.add_argument("--layer-decay", type=float, default=0.75, metavar="X", help=said)
    sub.add_argument("--epochs", type=int, default=30, metavar="N", help="default 30")
    said = "default: an eighth of the training images, at most 128"
    sub.add_argument("--batch-size", type=int, metavar="N", help=said)
    said = "default: 0.001, with --frozen 0.01"
    sub.add_argument("--learning-rate", type=float, metavar="X", help=said)
    said = "strength of turning, scaling...; 0 for none (default 0.5)"
    sub.add_argument("--augment", type=float, default=0.5, metavar="X", help=said)
    run_options(sub, "runs/finetune-DATA-seedN")


def run_options(sub: argparse.ArgumentParser, out: str) -> None:
    """How and where to train, which `train` and `finetune` share."""
    group = sub.add_argument_group("the run")
    group.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    group.add_argument("--out", type=Path, metavar="DIR", help=f"default: {out}")
    group.add_argument("--resume", action="store_true", help="go on with what --out holds")
    said = "keep the state so often, beside after every epoch (default 5)"
    group.add_argument("--save-minutes", type=float, default=5, metavar="X", help=said)
    group.add_argument("--device", help="cuda, mps or cpu (default: the first there is)")
    group.add_argument("--precision", metavar="NAME", help=" or ".join(CHOICES["precision"]))
    said = "parts of a batch, one after the other, to save memory"
    group.add_argument("--accumulate", type=int, metavar="N", help=said)
    said = "through torch.compile, which takes minutes before the first step"
    group.add_argument("--compile", action="store_true", help=said)


def data_options(sub: argparse.ArgumentParser, default: str | None) -> None:
    """Where images come from."""
    said = default or "mnist, or digits where it cannot be had"
    sub.add_argument(
        "--data", default=default, metavar="NAME",
        help=f"mnist, fashion_mnist, cifar10, digits or folder:PATH (default: {said})",
    )  # fmt: skip
    sub.add_argument("--root", type=Path, metavar="DIR", help="where downloaded data sets lie")
    sub.add_argument("--image-size", type=int, metavar="N", help="resize a folder's images")


def weights_option(sub: argparse.ArgumentParser) -> None:
    """Which model."""
    sub.add_argument(
        "--weights", default="mnist", metavar="FILE",
        help='a .safetensors file that "train" wrote, or a shipped model (default: mnist)',
    )  # fmt: skip


def run_train(args: argparse.Namespace) -> None:
    """Train, and leave weights, history, curves and an attention picture in a folder."""
    if args.preset is not None and args.preset not in PRESETS:
        raise unknown("preset", args.preset, PRESETS)
    if args.data is None and not (args.resume and args.out):  # then the state there names it
        made_for = (args.preset or "").partition("-")[0]
        args.data = made_for if made_for in NAMES else default_dataset()
    name = (args.data or "").replace(":", "-").replace("/", "-")
    args.out = args.out or Path("runs") / f"{name}-seed{args.seed}"
    fit(args, made, draw_pictures, ("curves.png", "attention.png"))


def made(args: argparse.Namespace) -> Run:
    """A new model."""
    data = load(args.data, args.root, args.seed, args.image_size)
    config, training = configure(args, data)
    return Run(args, VisionTransformer(config), data, training)


def draw_pictures(run: Run, logits: torch.Tensor, history: list[dict[str, Any]]) -> None:
    """The course of the training, and what the model looks at."""
    draw_curves(history, run.args.out / "curves.png")
    draw_attention(run.model, run.data, run.args.out / "attention.png")


def run_finetune(args: argparse.Namespace) -> None:
    """Give a trained model a new head, train it on other images, and report on the test split."""
    name = Path(args.data.removeprefix("folder:")).resolve().name
    args.out = args.out or Path("runs") / f"finetune-{name}-seed{args.seed}"
    fit(args, tuned, write_report, ("report.html",))


def tuned(args: argparse.Namespace) -> Run:
    """A trained model with its new head."""
    model, data = fitted(args)
    return Run(args, model, data, finetune_recipe(args, len(data.train)))


def write_report(run: Run, logits: torch.Tensor, history: list[dict[str, Any]]) -> None:
    """The page that says how good the model is."""
    facts = run.described() | {
        "Training": f"{len(history)} epochs in {sum(e['seconds'] for e in history):.0f} s",
        "Command": run.args.command,
    }
    page = html_report(run.model.eval(), run.data, logits, history, facts)
    checkpoint.write(run.args.out / "report.html", page.encode())


def fitted(args: argparse.Namespace) -> tuple[VisionTransformer, Data]:
    """The model with its new head and size, and the images as it reads them."""
    old, prepared = VisionTransformer.from_checkpoint(args.weights)
    size = old.config.image_size if args.image_size is None else args.image_size
    config = replace(old.config, image_size=size)  # a wrong size is said before images are read
    folder = args.data.startswith("folder:")
    data = load(args.data, args.root, args.seed, config.height_width if folder else None)
    if len(data.classes) < 2:
        raise ValueError(f"{data.name} has one class, {data.classes[0]!r}: expected at least two")
    prepared = replace(prepared, height_width=config.height_width)
    train, val, test = (adapt(split, prepared) for split in (data.train, data.val, data.test))
    model = transfer(old, len(data.classes), size, args.frozen)
    return model, replace(data, train=train, val=val, test=test)


def finetune_recipe(args: argparse.Namespace, images: int) -> TrainConfig:
    """What the options say; a batch size that a small folder can fill at least once."""
    if args.batch_size is not None and args.batch_size > images:
        raise ValueError(f"--batch-size {args.batch_size} is more than the {images} images")
    recipe = TrainConfig(
        batch_size=max(1, min(128, images // 8)), learning_rate=0.01 if args.frozen else 0.001
    )
    return replace(recipe, **given(args, recipe) | ({"layer_decay": 1.0} if args.frozen else {}))


def given(args: argparse.Namespace, recipe: TrainConfig) -> dict[str, Any]:
    """The parts of a recipe that an option names."""
    options = {name: getattr(args, name, None) for name in asdict(recipe)}
    return {name: value for name, value in options.items() if value is not None}


def configure(args: argparse.Namespace, data: Data) -> tuple[ViTConfig, TrainConfig]:
    """The preset, changed by what the options say; P is chosen by size if the preset's is none."""
    usual = {"digits": "digits", "mnist": "mnist-fast"}.get(data.name, "mnist")
    preset = PRESETS[args.preset or usual]
    shape = dict(preset.model)
    side = gcd(*data.train.images.shape[-2:])
    if args.preset is None and side % shape["patch_size"]:  # about eight patches a side
        divisors = [P for P in range(1, side + 1) if side % P == 0]
        shape["patch_size"] = min(divisors, key=lambda P: abs(P - side / 8))
    names = (*shape, "dropout", "positions", "pool")
    shape |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return model_config(data, shape), replace(preset.training, **given(args, preset.training))


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Losses above, validation accuracy below."""
    with rc_context(plots.paper()):
        figure = Figure(figsize=(7, 5), layout="constrained")
        show_history(figure, history)
        figure.savefig(path)


def draw_attention(model: VisionTransformer, data: Data, path: Path) -> None:
    """What the last block reads from the first four test images, averaged over its heads."""
    few = data.test.images[:4].float() / 255
    draw_maps(model, few, data.test.normalise(few), path)


def draw_maps(model: VisionTransformer, pixels: Any, images: Any, path: Path) -> None:
    """For every image the map of the last block's class token, all on one scale."""
    maps = model.attention_maps(images)[:, -1].mean(dim=1)
    maps = class_token_maps(maps, *model.config.grid)
    with rc_context(plots.paper()):
        figure = Figure(figsize=(1.9 * len(maps) + 1, 2.1), layout="constrained")
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        for i, (ax, image) in enumerate(zip(axes, pixels, strict=True)):
            plots.show_attention(ax, image, maps[i], float(maps.max()), bar=i == len(maps) - 1)
        figure.savefig(path)


def run_evaluate(args: argparse.Namespace) -> None:
    """Print accuracy and loss on one split."""
    model, prepared = VisionTransformer.from_checkpoint(args.weights)
    # another seed would put images into the test split that the model was trained on
    data = load(args.data, args.root, checkpoint.seed_of(args.weights), args.image_size)
    split = replace(
        getattr(data, args.split),
        mean=torch.tensor(prepared.mean), std=torch.tensor(prepared.std),
    )  # fmt: skip
    fit = split.images.shape[1:] == model.embedding.image_shape  # if not, the model says so
    if fit and tuple(data.classes) != prepared.classes:
        raise ValueError(
            f"{args.weights} knows the classes {brief(prepared.classes)}, "
            f"{data.name} has {brief(data.classes)}"
        )
    loss, accuracy = evaluate(model.to(default_device()), split)
    wrong = round((1 - accuracy) * len(split))
    print(
        f"{data.name}, {args.split}: accuracy {accuracy:.2%} ({wrong} of {len(split)} wrong), "
        f"loss {loss:.4f}"
    )


def brief(names: Sequence[str]) -> str:
    """How many names, and the first few."""
    return f"({len(names)}) {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def run_predict(args: argparse.Namespace) -> None:
    """Print the top classes of every image; perhaps draw what was read."""
    model, prepared = VisionTransformer.from_checkpoint(args.weights)
    if args.top < 1:
        raise ValueError(f"--top must be at least 1, got {args.top}")
    if args.maps is not None:  # said before anything is computed
        kinds = Figure().canvas.get_supported_filetypes()
        if args.maps.suffix.lower().removeprefix(".") not in kinds:
            raise ValueError(f"--maps {args.maps}: expected a name that ends in .png, .pdf or .svg")
        if not args.maps.parent.is_dir():
            raise ValueError(f"--maps {args.maps}: no such folder: {args.maps.parent}")
    pixels = torch.cat([prepared.pixels(path) for path in args.images])
    pixels = 1 - pixels if args.invert else pixels
    images = prepared.normalise(pixels)
    with torch.no_grad():
        probabilities = model(images).softmax(dim=-1)
    for path, row in zip(args.images, probabilities, strict=True):
        best = row.topk(min(args.top, len(row)))
        said = (
            f"{prepared.classes[label]} {share:.1%}"
            for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        print(f"{path}: {', '.join(said)}")
    if args.maps is not None:
        draw_maps(model, pixels, images, args.maps)
        reader = "the class token reads" if model.config.pool == "token" else "all tokens read"
        print(f"what {reader}: {args.maps}")


def run_info(args: argparse.Namespace) -> None:
    """Print the shapes from image to logits and the parameters of each part."""
    given = {"image_size": args.image_size, "classes": args.classes}
    config = variant(args.variant, **{k: v for k, v in given.items() if v is not None})
    with torch.device("meta"):  # shapes without memory
        model = VisionTransformer(config)
    (H, W), (rows, cols), D = config.height_width, config.grid, config.hidden_size
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
