"""A training run in a folder: saved as it goes, resumed where it stopped, described at its end."""

import argparse
import hashlib
import json
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from tqdm import tqdm

from vit_tutorial.data import Data
from vit_tutorial.errors import shown, unknown
from vit_tutorial.lab import distributed
from vit_tutorial.lab.folders import FolderData
from vit_tutorial.lab.loop import Step, Training
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.lab.report import baseline, wilson
from vit_tutorial.lab.resume import State, check_same, fingerprint, load_state, save_state
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import Epoch, default_device, predictions
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.files import from_json, is_a, listed, reading
from vit_tutorial.weights.preprocessing import preprocessing

try:
    import fcntl
except ImportError:  # on Windows nothing keeps two trainings apart
    fcntl = None  # type: ignore[assignment]

WRITTEN = ("state.safetensors", "model.safetensors", "metrics.jsonl", "card.json", "report.html")
KINDS: dict[str, Any] = get_type_hints(ViTConfig) | get_type_hints(Recipe) | {"image_size": int}
KINDS = {name: kind | None for name, kind in KINDS.items()}  # of options; the others are text
KINDS |= {"data": str, "seed": int, "weights": str, "frozen": bool}
# options that may change when a run is resumed
FREE = (
    "run", "given", "command", "files", "out", "resume", "save_minutes", "device", "compile",
    "root", "parallel",
)  # fmt: skip


class Run(NamedTuple):
    """Options, model, data and recipe of a run."""

    args: argparse.Namespace
    model: VisionTransformer
    data: Data
    recipe: Recipe

    def described(self) -> dict[str, str]:
        """Data and model in words."""
        (model, data, recipe), (H, W) = self[1:], self.model.config.height_width
        rows, cols = model.config.grid
        head = f"{self.args.weights} with a new head for " if "weights" in self.args else ""
        return {
            "Data": f"{shown(data.name)}: {len(data.train)} images to train on, {len(data.val)} to "
            f"validate, {len(data.test)} to test",
            "Model": f"{head}{len(data.classes)} classes, images of {H} x {W} pixels in {rows} x "
            f"{cols} patches, {count(model):,} parameters, {trainable(model):,} of them trained",
            "Recipe": f"{recipe.epochs} epochs in batches of {recipe.batch_size}, by "
            f"{recipe.optimizer}, changed by {recipe.augmentation} {recipe.augment}",
        }

    def told(self) -> dict[str, dict[str, Any]]:
        """The options, and all settings that have to be the same when the run is resumed."""
        options = {name: value for name, value in vars(self.args).items() if name not in FREE}
        settings = options | asdict(self.recipe) | asdict(self.model.config)
        settings |= {"images": fingerprint(self.data)[:16], "names": self.data.classes}
        found = {"options": options, "settings": settings}
        return json.loads(json.dumps(found, default=str))  # as a state gives it back


Show = Callable[[Run, torch.Tensor, list[dict[str, Any]]], None]  # draws, from the test's logits


def fit(
    args: argparse.Namespace, make: Callable[[argparse.Namespace], Run], show: Show,
    pictures: tuple[str, ...],
) -> bool:  # fmt: skip
    """Train what `make` gives, from the start or from the state in --out, and report on it.

    Of several processes only the first prints and writes. True if the model is surely better than
    always answering the commonest class, or if there was nothing to do.
    """
    names = ("model.safetensors", "metrics.jsonl", *pictures, "card.json")
    state, about = saved(args, names)
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed must lie in 0..{2**63 - 1}, got {args.seed}")
    if (parallel := getattr(args, "parallel", "ddp")) not in ("ddp", "fsdp"):
        raise unknown("parallel", parallel, ("ddp", "fsdp"))
    if not args.save_minutes >= 0:
        raise ValueError(f"--save-minutes must be at least 0, got {args.save_minutes}")
    device = distributed.join(chosen_device(args.device))
    with redirect_stdout(None) if distributed.rank() else nullcontext():
        torch.manual_seed(args.seed)
        with distributed.one_by_one():  # the first may have to fetch the images
            run = make(args)
        told = run.told()
        was = asdict(Recipe()) | about.get("settings", told["settings"])
        check_same(str(args.out), was, told["settings"])
        about |= told | ({"files": run.data.listed} if isinstance(run.data, FolderData) else {})
        if state and state.epoch == run.recipe.epochs and is_whole(args.out, names):
            print(f"{shown(args.out)} is finished: {state.epoch} epochs, nothing to do")
            return True
        print(*run.described().values(), f"on {device}", sep="\n")
        shards = device if parallel == "fsdp" and distributed.processes() > 1 else None
        if parallel == "fsdp" and shards is None:
            print("one process: it holds the whole model (torchrun starts several)")
        run.model.to("cpu" if shards else device)
        check_abilities(run, device)
        with nullcontext() if distributed.rank() else locked(args.out):
            if state is None and not distributed.rank():
                check_free(args.out, names)  # as another training may have left it meanwhile
            history = follow(run, state, about, shards)
            better = bool(distributed.rank()) or finish(run, history, show, device)
        print(*(f"  {shown(args.out / name)}" for name in names), sep="\n")
        return better


def finish(run: Run, history: list[dict[str, Any]], show: Show, device: torch.device) -> bool:
    """Test the model and write what is left; whether it surely beats the commonest class."""
    logits = predictions(run.model, run.data.test).cpu()
    run.model.cpu()
    show(run, logits, history)
    right, M = int((logits.argmax(dim=1) == run.data.test.labels).sum()), len(logits)
    write_card(run, history, right / M, device)
    name, always = baseline(run.data)
    print(f"test accuracy {right / M:.2%} ({right} of {M} right)")
    print(f"always to answer {shown(name)!r} would get {always / M:.2%} ({always} of {M})")
    return wilson(right, M)[0] > always / M


def check_free(out: Path, names: tuple[str, ...]) -> None:
    """Raise ValueError if a folder holds a model, or other files that a run would overwrite."""
    if (out / "state.safetensors").exists() or (out / "model.safetensors").exists():
        raise ValueError(f"{out} already holds a model: give another --out, or --resume")
    for file in (out / name for name in names):
        if file.exists() and file.stat().st_size:  # a run that ended at once leaves no figures
            raise ValueError(f"{file} is there, and not of a run to resume: give another --out")


def is_whole(out: Path, names: tuple[str, ...]) -> bool:
    """Whether a finished run's files are there, and its weights those that the card names."""
    try:
        card = json.loads((out / "card.json").read_bytes())
        found = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        damaged = found != card["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    if damaged:
        print(f"{shown(out / 'model.safetensors')} is damaged: made again")
    return not damaged and all((out / name).exists() for name in names)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other trainings out of a folder for as long as the block takes.

    Raises ValueError if one is at work there. A process that is killed leaves a file, but no lock.
    """
    lock = out / ".lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError:  # what cannot be written is said where it is written
        yield
        return
    with file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another training is at work in {out}: give another --out") from error
        for name in WRITTEN:  # what a process left that was killed while it wrote
            for left in out.glob(f".{name}.????????"):
                left.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def saved(args: argparse.Namespace, names: tuple[str, ...]) -> tuple[State | None, dict[str, Any]]:
    """Load the saved state; options missing on the command line are filled from it.

    Raises ValueError if there is none, or if there is one without --resume.
    """
    file = args.out / "state.safetensors"
    if not args.resume:
        check_free(args.out, names)
        return None, {"history": [], "command": args.command}
    if not file.exists():
        raise ValueError(f"{args.out} holds nothing to resume: start without --resume")
    state, about = load_state(file)
    with reading(file):
        check_about(about, state.epoch, args)
    kept = {name: value for name, value in about["options"].items() if name not in args.given}
    vars(args).update(kept, command=about["command"], files=about.get("files"))
    return state, about


def check_about(about: dict[str, Any], epochs: int, args: argparse.Namespace) -> None:
    """Raise ValueError unless a state says of its run what one like this needs to know."""
    needed = {"command": str, "history": list, "options": dict, "settings": dict}
    wrong = [name for name, kind in needed.items() if not is_a(about.get(name), kind)]
    options = {} if wrong else {"data": None, "seed": None} | about["options"]
    known = vars(args).keys() - set(FREE)
    fit = (name in known and is_a(x, KINDS.get(name, str | None)) for name, x in options.items())
    wrong += [f"--{name}" for name, fits in zip(options, fit, strict=True) if not fits]
    if wrong:
        made = about.get("command")
        raise ValueError(f"it is of {made!r}, not of a run like this one: see its {listed(wrong)}")
    numbers = [from_json(Epoch, epoch, "its history").number for epoch in about["history"]]
    if numbers != list(range(1, epochs + 1)):
        raise ValueError(f"its history is of the epochs {numbers}, expected 1 to {epochs}")


def check_abilities(run: Run, device: torch.device) -> None:
    """Raise ValueError if the device cannot compile or use bf16, before hours are spent."""
    layer, x = torch.nn.Linear(8, 8, device=device), torch.zeros(8, 8, device=device)
    what = ""
    try:
        if run.recipe.precision == "bf16":
            what = "--precision bf16"
            with torch.autocast(device.type, torch.bfloat16):
                layer(x)
            if device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
                raise RuntimeError("its arithmetic knows no bfloat16")
        if run.args.compile:
            what = "--compile"
            torch.compile(layer)(x)
    except Exception as error:  # compilers fail in many ways
        raise ValueError(f"{device} cannot do {what} here: {in_a_line(error)}") from error


def follow(
    run: Run, state: State | None, about: dict[str, Any], shards: torch.device | None
) -> list[dict[str, Any]]:
    """Train under a progress bar; after every epoch save state, weights and a line of figures.

    Ctrl-C, SIGTERM and the end of another process are reported together with how to go on.
    """
    args, model, data, recipe = run
    history: list[dict[str, Any]] = about["history"]
    first, file = distributed.rank() == 0, args.out / "state.safetensors"
    if first:
        write_metrics(args.out, history)  # fail before training, not after
    generator = torch.Generator().manual_seed(args.seed)
    size, saved = recipe.batch_size, time.monotonic()
    per_epoch = len(data.train) // size
    done = 0 if state is None else state.epoch * per_epoch + state.step

    def keep() -> None:
        nonlocal saved
        state = training.state()
        finite = all(t.isfinite().all() for t in state.tensors.values())  # the next check raises
        if first and finite:
            save_state(file, state, about)
        saved = time.monotonic()

    def on_step(step: Step) -> None:
        if bar.update(size):  # true where it draws: only then the device is waited for
            shown = f"{step.loss.item():.3f}", f"{step.accuracy.item():.1%}"
            bar.set_postfix(loss=shown[0], accuracy=shown[1])
            if distributed.processes() == 1:
                training.check_finite(training.losses[: training.step])
        late = first and time.monotonic() - saved >= 60 * args.save_minutes
        if distributed.agreed(bool(asked) or late, training.weight.device):
            keep()
            if distributed.agreed(bool(asked), training.weight.device):
                raise KeyboardInterrupt(f"after step {step.number} of {step.steps}")

    with asked_to_stop() as asked:
        try:
            training = Training(model, data, recipe, generator, None, args.compile, shards)
            if state is not None:
                with reading(file):
                    training.resume(state)
            with tqdm(total=recipe.epochs * per_epoch * size, initial=done * size, unit="img",
                      unit_scale=True, disable=not first) as bar:  # fmt: skip
                for epoch in training.epochs(on_step):
                    history.append(asdict(epoch))
                    keep()  # before the weights: a folder with weights can be resumed
                    if first:
                        write_results(run, history)
                        bar.write(
                            f"epoch {epoch.number:3}: training loss {epoch.train_loss:.4f}, "
                            f"validation loss {epoch.val_loss:.4f}, accuracy "
                            f"{epoch.val_accuracy:.2%}, {epoch.seconds:.1f} s"
                        )
                if asked:  # after the last step
                    raise KeyboardInterrupt("before testing")
        except (KeyboardInterrupt, RuntimeError) as stop:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is to say how to go on
            again = f"; go on with: {args.command} --resume" if file.exists() else ""
            if isinstance(stop, KeyboardInterrupt):
                raise KeyboardInterrupt(f"{stop}{again}") from stop
            if distributed.processes() == 1 and "DataLoader worker" not in str(stop):
                raise
            raise ValueError(f"process {distributed.rank()} cannot go on: {stop}{again}") from stop
    if first and state is not None and state.epoch == recipe.epochs:  # only files are missing
        write_results(run, history)
    return history


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Collect Ctrl-C, and SIGTERM as clusters send it, in a list; a second Ctrl-C acts at once.

    A second SIGTERM does not: launchers pass on what the cluster has sent to everyone already. One
    that comes later still, while the process ends, changes nothing either.
    """
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            signal.signal(number, usual[signal.SIGINT])

    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in usual.items():
            if number == signal.SIGINT or number not in asked:
                signal.signal(number, handler)


def write_metrics(out: Path, history: list[dict[str, Any]]) -> None:
    """One line for every epoch."""
    lines = "".join(json.dumps(figures) + "\n" for figures in history)
    checkpoint.write(out / "metrics.jsonl", lines.encode())


def write_results(run: Run, history: list[dict[str, Any]]) -> None:
    """The weights, for use, and the figures of all epochs."""
    files = {"files": run.data.files} if isinstance(run.data, FolderData) else {}
    checkpoint.save(
        run.args.out / "model.safetensors", run.model, data=run.data.name, seed=run.args.seed,
        epoch=len(history), preprocessing=preprocessing(run.data), history=history, **files,
    )  # fmt: skip
    write_metrics(run.args.out, history)


def write_card(
    run: Run, history: list[dict[str, Any]], accuracy: float, device: torch.device
) -> None:
    """Write card.json: command, seed, configuration, versions and results."""
    args, model, data, recipe = run
    record = {
        "command": args.command,
        **({"weights": args.weights} if "weights" in args else {}),
        "seed": args.seed,
        "data": data.name,
        "config": asdict(model.config),
        "training": asdict(recipe),
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


def machine(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads and date, for the card."""
    packages = ("vit-tutorial", "torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": f"{platform.system()} {platform.machine()}, {device}",
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def chosen_device(name: str | None) -> torch.device:
    """The device asked for, tried out, or the first there is; ValueError if it cannot be used."""
    try:
        device = torch.zeros(1, device=name).device if name else default_device()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {name!r}: {in_a_line(error)}") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"cannot use the device {name!r}: expected cpu, cuda or mps")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # whose random numbers a state keeps
    return device


def in_a_line(error: Exception) -> str:
    """The first line of what an error says, or its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def count(module: torch.nn.Module) -> int:
    """The number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def trainable(module: torch.nn.Module) -> int:
    """The number of those that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
