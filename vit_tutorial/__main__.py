"""The command line: train, finetune, evaluate, predict, info."""

import argparse
import hashlib
import json
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from tqdm import tqdm

from vit_tutorial import checkpoint, distributed, plots
from vit_tutorial.attention_maps import class_token_maps
from vit_tutorial.data import NAMES, Data, default_dataset, load
from vit_tutorial.errors import unknown
from vit_tutorial.model import VARIANTS, VisionTransformer, ViTConfig, variant
from vit_tutorial.report import html_report, show_history
from vit_tutorial.train import (
    CHOICES,
    PRESETS,
    State,
    Step,
    TrainConfig,
    default_device,
    evaluate,
    model_config,
    predictions,
    train,
)
from vit_tutorial.transfer import adapt, transfer

EXAMPLES = """examples:
  vit-tutorial train                              MNIST, or the digits, with sensible defaults
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
    said = "torch.compile: takes a minute, then steps are faster"
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


class Run(NamedTuple):
    """What was asked for, and what is trained on what and how."""

    args: argparse.Namespace
    model: VisionTransformer
    data: Data
    training: TrainConfig

    def described(self) -> dict[str, str]:
        """Data and model in words."""
        (model, data), (H, W) = self[1:3], self.model.config.height_width
        rows, cols = model.config.grid
        head = f"{self.args.weights} with a new head for " if "weights" in self.args else ""
        return {
            "Data": f"{data.name}: {len(data.train)} images to train on, {len(data.val)} to "
            f"validate, {len(data.test)} to test",
            "Model": f"{head}{len(data.classes)} classes, images of {H} x {W} pixels in {rows} x "
            f"{cols} patches, {count(model):,} parameters, {trainable(model):,} of them trained",
        }


def run_train(args: argparse.Namespace) -> None:
    """Train, and leave weights, history, curves and an attention picture in a folder."""
    if args.preset is not None and args.preset not in PRESETS:
        raise unknown("preset", args.preset, PRESETS)
    if args.data is None:
        made_for = (args.preset or "").partition("-")[0]
        args.data = made_for if made_for in NAMES else default_dataset()
    name = args.data.replace(":", "-").replace("/", "-")
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


def fit(
    args: argparse.Namespace,
    make: Callable[[argparse.Namespace], Run],
    show: Callable[[Run, torch.Tensor, list[dict[str, Any]]], None],
    shown: tuple[str, ...],
) -> None:
    """Train what `make` gives, from the start or from the state in --out, and report on it.

    Of several processes only the first speaks and writes.
    """
    state, about = opened(args)
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed must lie in 0..{2**63 - 1}, got {args.seed}")
    device = distributed.join(chosen_device(args.device))
    with redirect_stdout(None) if distributed.rank() else nullcontext():
        torch.manual_seed(args.seed)
        with distributed.one_by_one():  # the first may have to fetch the images
            run = make(args)
        about |= compared(run, about)
        names = ("model.safetensors", "metrics.jsonl", *shown, "card.json")
        files = [args.out / name for name in names]
        if state and state.epoch == run.training.epochs and all(file.exists() for file in files):
            print(f"{args.out} is finished: {state.epoch} epochs, nothing to do")
            return
        print(*run.described().values(), f"on {device}", sep="\n")
        run.model.to(device)
        check_abilities(run, device)
        history = follow(run, state, about)
        if distributed.rank():
            return
        logits = predictions(run.model, run.data.test).cpu()
        run.model.cpu()
        show(run, logits, history)
        right, M = int((logits.argmax(dim=1) == run.data.test.labels).sum()), len(logits)
        write_card(run, history, right / M, device)
        print(f"test accuracy {right / M:.2%} ({right} of {M} right)")
        print(*(f"  {file}" for file in files), sep="\n")


def opened(args: argparse.Namespace) -> tuple[State | None, dict[str, Any]]:
    """The state in --out to go on from, and what was said of it; what is not given comes from it.

    Raises ValueError if there is none, or if there is one and nobody asks to go on from it.
    """
    file = args.out / "state.safetensors"
    if not args.resume:
        if file.exists() or (args.out / "model.safetensors").exists():
            raise ValueError(f"{args.out} already holds a model: give another --out, or --resume")
        return None, {"history": [], "command": args.command}
    if not file.exists():
        raise ValueError(f"{args.out} holds nothing to resume: start without --resume")
    for left in args.out.glob(".*.????????"):  # by a process that was killed while it wrote
        left.unlink(missing_ok=True)
    state, about = checkpoint.load_state(file)
    kept = {name: value for name, value in about["options"].items() if name not in args.given}
    vars(args).update(kept, command=about["command"])
    return state, about


def compared(run: Run, about: dict[str, Any]) -> dict[str, Any]:
    """What a state has to say of its run; ValueError if it said something else before."""
    free = ("run", "given", "command", "out", "resume", "save_minutes", "device", "compile", "root")
    options = {name: value for name, value in vars(run.args).items() if name not in free}
    settings = options | asdict(run.training) | asdict(run.model.config)
    settings["images"] = checkpoint.fingerprint(run.data)[:16]
    now = json.loads(json.dumps({"options": options, "settings": settings}, default=str))
    old = about.get("settings", now["settings"])
    differ = [
        f"{name}: checkpoint {old.get(name)}, asked {value}"
        for name, value in now["settings"].items()
        if old.get(name) != value
    ]
    if differ:
        raise ValueError(f"{run.args.out} cannot go on with other settings: {'; '.join(differ)}")
    return now


def check_abilities(run: Run, device: torch.device) -> None:
    """Compile if asked; ValueError if the device cannot do that or bf16, before hours are spent."""
    layer, x = torch.nn.Linear(8, 8, device=device), torch.zeros(8, 8, device=device)
    what = ""
    try:
        if run.training.precision == "bf16":
            what = "--precision bf16"
            with torch.autocast(device.type, torch.bfloat16):
                layer(x)
            if device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
                raise RuntimeError("its arithmetic knows no bfloat16")
        if run.args.compile:
            what = "--compile"
            torch.compile(layer)(x)
            run.model.compile()
    except Exception as error:  # compilers fail in many ways
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{device} cannot do {what} here: {line}") from error


def write_card(
    run: Run, history: list[dict[str, Any]], accuracy: float, device: torch.device
) -> None:
    """Everything that a figure of this run has to be quoted with."""
    args, model, data, training = run
    record = {
        "command": args.command,
        **({"weights": args.weights} if "weights" in args else {}),
        "seed": args.seed,
        "data": data.name,
        "config": asdict(model.config),
        "training": asdict(training),
        "parameters": count(model),
        "trained_parameters": trainable(model),
        "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
        "validation_accuracy": history[-1]["val_accuracy"],
        "test_accuracy": accuracy,
        "test_images": len(data.test),
        "history": history,
        **machine(device),
        "sha256": hashlib.sha256((args.out / "model.safetensors").read_bytes()).hexdigest(),
    }
    checkpoint.write(args.out / "card.json", (json.dumps(record, indent=1) + "\n").encode())


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
    preset = PRESETS[args.preset or ("digits" if data.name == "digits" else "mnist")]
    shape = dict(preset.model)
    side = gcd(*data.train.images.shape[-2:])
    if args.preset is None and side % shape["patch_size"]:  # about eight patches a side
        divisors = [P for P in range(1, side + 1) if side % P == 0]
        shape["patch_size"] = min(divisors, key=lambda P: abs(P - side / 8))
    names = (*shape, "dropout", "positions", "pool")
    shape |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return model_config(data, shape), replace(preset.training, **given(args, preset.training))


def chosen_device(name: str | None) -> torch.device:
    """The device asked for, tried out, or the first there is; ValueError if it cannot be used."""
    try:
        return torch.zeros(1, device=name).device if name else default_device()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {name!r}: {str(error).splitlines()[0]}") from error


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that Ctrl-C, or SIGTERM as clusters send it, makes true; the next one acts at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, usual[signal.Signals(number)])

    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def follow(run: Run, state: State | None, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Train under a progress bar; after every epoch keep state, weights and a line of figures.

    Ctrl-C, SIGTERM, and the end of another process are said together with how to go on.
    """
    args, model, data, training = run
    history: list[dict[str, Any]] = about["history"]
    size, per_epoch = training.batch_size, len(data.train) // training.batch_size
    done = 0 if state is None else state.epoch * per_epoch + state.step
    first, saved = distributed.rank() == 0, time.monotonic()
    file, device = args.out / "state.safetensors", next(model.parameters()).device
    if first:
        write_metrics(args.out, history)  # if it cannot be written, it is said now
    bar = tqdm(total=training.epochs * per_epoch * size, initial=done * size, unit="img",
               unit_scale=True, disable=not first)  # fmt: skip

    def keep(state: State) -> None:
        nonlocal saved
        finite = all(t.isfinite().all() for t in state.tensors.values())  # or the next step says so
        if first and finite:
            checkpoint.save_state(file, state, about)
        saved = time.monotonic()

    def on_step(step: Step) -> None:
        bar.set_postfix(loss=f"{step.loss:.3f}", accuracy=f"{step.accuracy:.1%}", refresh=False)
        bar.update(size)
        stop = distributed.mean(torch.tensor(float(len(asked)), device=device)) > 0  # all or none
        if stop or time.monotonic() - saved >= 60 * args.save_minutes:
            keep(step.state())
        if stop:
            raise KeyboardInterrupt(f"after step {step.number} of {step.steps}")

    try:
        with bar, asked_to_stop() as asked:
            generator = torch.Generator().manual_seed(args.seed)
            for epoch in train(model, data, training, generator, state, on_step):
                history.append({k: v for k, v in vars(epoch).items() if k != "state"})
                if first:
                    write_results(run, history)
                    bar.write(
                        f"epoch {epoch.number:3}: training loss {epoch.train_loss:.4f}, validation "
                        f"loss {epoch.val_loss:.4f}, accuracy {epoch.val_accuracy:.2%}, "
                        f"{epoch.seconds:.1f} s"
                    )
                keep(epoch.state)
    except KeyboardInterrupt as stop:
        again = f"; go on with: {args.command} --resume" if file.exists() else ""
        raise KeyboardInterrupt(f"{stop}{again}") from stop
    except RuntimeError as error:
        if distributed.processes() == 1:
            raise
        raise ValueError(f"process {distributed.rank()} cannot go on: {error}") from error
    if state is not None and state.epoch == training.epochs:  # all that is missing is the rest
        model.load_state_dict(state.part("average") or state.part("model"))
        write_results(run, history)
    return history


def write_metrics(out: Path, history: list[dict[str, Any]]) -> None:
    """One line for every epoch."""
    lines = "".join(json.dumps(figures) + "\n" for figures in history)
    checkpoint.write(out / "metrics.jsonl", lines.encode())


def write_results(run: Run, history: list[dict[str, Any]]) -> None:
    """The weights, for use, and the figures of all epochs."""
    checkpoint.save(
        run.args.out / "model.safetensors", run.model, data=run.data.name, seed=run.args.seed,
        epoch=len(history), preprocessing=checkpoint.preprocessing(run.data), history=history,
    )  # fmt: skip
    write_metrics(run.args.out, history)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure has to say about where it was measured."""
    packages = ("vit-tutorial", "torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }


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


def count(module: torch.nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def trainable(module: torch.nn.Module) -> int:
    """The number of those that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


if __name__ == "__main__":
    sys.exit(main())
