"""Trained models on disk: safetensors files that hold the configuration too, written atomically."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_tutorial.errors import unknown
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights.preprocessing import Preprocessing

FORMAT = "vit_tutorial 1"
PRETRAINED = Path(__file__).parent / "pretrained"
WRAPPERS = ("_orig_mod", "module")  # what torch.compile and DistributedDataParallel put into names


def save(path: str | Path, model: nn.Module, **more: Any) -> None:
    """Write a model's configuration and weights, and `more`, to one safetensors file.

    `more` is anything that JSON can hold, or a Preprocessing. Tensors keep their precision; a
    model wrapped by torch.compile or DistributedDataParallel is saved as the model inside.
    Raises ValueError, before anything is written, if the model is not what its configuration
    describes (a replaced head, a pruned layer): the message names the tensors and layers. Raises
    OSError if the file cannot be written; what `path` held before is then still there.
    """
    found = (getattr(part, "config", None) for part in model.modules())
    config = next((c for c in found if isinstance(c, ViTConfig)), None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no ViTConfig as its `config`")
    check_fit(model, config)
    more = {k: asdict(v) if isinstance(v, Preprocessing) else v for k, v in more.items()}
    told = {"config": json.dumps(asdict(config)), "more": json.dumps(more)}
    tensors = {plain(name): w for name, w in model.state_dict().items()}
    write(path, pack(tensors, {"format": FORMAT, **told}))


def load(path: str | Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """The model of a file, in eval mode, on the CPU, as precise as it was saved; and `more`.

    Raises ValueError for a missing, damaged or foreign file, and for tensors that do not fit the
    configuration. Nothing is unpickled.
    """
    path = Path(path)
    tensors, header = unpack(path, FORMAT)
    try:
        config, more = json.loads(header["config"]), json.loads(header["more"])
        model = built(ViTConfig(**with_tuples(config)), tensors)
        if "preprocessing" in more:
            more["preprocessing"] = Preprocessing(**with_tuples(more["preprocessing"]))
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit its config: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the header of {path} is damaged: {error}") from error
    return model, more


def with_tuples(found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass after JSON, which turns tuples into lists."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in found.items()}


class SkipInitialisation(TorchFunctionMode):
    """A context in which `torch.nn.init` leaves tensors as they are."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def blank(config: ViTConfig) -> VisionTransformer:
    """A model on PyTorch's meta device: its tensors have shapes, but no memory and no numbers."""
    with torch.device("meta"), SkipInitialisation():
        return VisionTransformer(config)


def built(config: ViTConfig, tensors: dict[str, Tensor]) -> VisionTransformer:
    """A model in eval mode that holds these very tensors, in their precision.

    Raises RuntimeError if they do not fit the configuration.
    """
    model = blank(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def check_fit(model: nn.Module, config: ViTConfig) -> None:
    """Raise ValueError, naming tensors and layers, unless `built` would make the same model.

    Compared are the shapes of all tensors, and the printed form (as "GELU(approximate='none')")
    of layers without parts that both have.
    """
    (found, layers), (expected, usual) = described(model), described(blank(config))
    for name in layers.keys() & usual.keys():
        found[name], expected[name] = layers[name], usual[name]
    wrong = [
        f"{name} {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in found | expected
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"the model does not fit its configuration: {listed(wrong, '; ')}")


def described(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of a model's tensors, and the printed forms of its layers without parts."""
    layers = {plain(n): str(part) for n, part in model.named_modules() if not [*part.children()]}
    return {plain(n): tuple(w.shape) for n, w in model.state_dict().items()}, layers


def plain(name: str) -> str:
    """The name of a tensor or layer without what wrappers add to it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def listed(found: Iterable[str], between: str = ", ") -> str:
    """The first eight, in order, and how many more there are."""
    found = sorted(found)
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (between.join(found[:8]) or "none") + more


def pack(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file with a header, to which the SHA-256 of the content is added."""
    tensors = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in tensors.items()}
    return to_bytes(tensors, header | {"sha256": digest(tensors, header)})


def unpack(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header that `pack` was given.

    Raises ValueError if there is no such file, or it is not whole, or its format is not `form`.
    """
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copied: what safetensors gives lies in the file, which may be replaced
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if header.get("format") != form:
        raise ValueError(f"{path} has format {header.get('format')!r}, expected {form!r}")
    said, found = header.pop("sha256", None), digest(tensors, header)
    if said != found and (said is not None or form != FORMAT):  # the first models had none
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, it says {said}")
    return tensors, header


def digest(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """The SHA-256 of a header and of the names, types, shapes and bytes of tensors on the CPU."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(path: str | Path, content: bytes) -> None:
    """Replace a file atomically: after a failure or a crash it holds the old content or the new.

    Raises OSError that names the file if it cannot be written.
    """
    try:
        replace_file(Path(path), content)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}; the file is as it was before") from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, flush it to the disk, and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def pretrained_card(name: str) -> dict[str, Any]:
    """How a shipped model was made: command, seed, versions, seconds, accuracies, SHA-256.

    Raises ValueError for an unknown name.
    """
    known = sorted(path.stem for path in PRETRAINED.glob("*.json"))
    if name not in known:
        raise unknown("pretrained model", name, known)
    return json.loads((PRETRAINED / f"{name}.json").read_text(encoding="utf-8"))


def pretrained_path(name: str) -> Path:
    """The file of a shipped model. Raises ValueError if its SHA-256 is not that on the card."""
    card, path = pretrained_card(name), PRETRAINED / f"{name}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != card["sha256"]:
        raise ValueError(f"{path} is damaged: SHA-256 {found}, the card says {card['sha256']}")
    return path


def load_pretrained(name: str) -> VisionTransformer:
    """A shipped model that was trained on MNIST, in eval mode on the CPU.

    "mnist" has 49 patches, for attention maps; "mnist-int8" is the same with rounded weights, as on
    the live page; "mnist-best" has 4 patches and the fewest errors.
    Raises ValueError for an unknown name and for a damaged file.
    """
    return load(pretrained_path(name))[0]
