"""Trained models on disk: safetensors files that hold the configuration too, written atomically."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_tutorial.errors import unknown
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights.files import (
    check_numbers,
    check_shapes,
    from_json,
    read_tensors,
    reading,
)
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
    with reading(path):
        tensors, header = unpack(Path(path), FORMAT)
        config, more = json.loads(header["config"]), json.loads(header["more"])
        if "preprocessing" in more:
            steps = from_json(Preprocessing, more["preprocessing"], "its preprocessing")
            more["preprocessing"] = steps
        return built(from_json(ViTConfig, config, "its configuration"), tensors), more


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


@lru_cache(maxsize=16)
def shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, by name; one block is made, and stands for all."""
    one = {n: tuple(w.shape) for n, w in blank(replace(config, layers=1)).state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    for inside, part in groupby(one, lambda name: ".blocks.0." in name):
        names = list(part)
        for i in range(config.layers if inside else 1):
            found |= {n.replace(".0.", f".{i}.", inside): one[n] for n in names}
    return found


def built(config: ViTConfig, tensors: dict[str, Tensor]) -> VisionTransformer:
    """A model in eval mode that holds these very tensors, in their precision.

    Raises ValueError, before memory is taken, that names a tensor which does not fit the
    configuration or does not hold finite numbers.
    """
    pixels, fixed = prod(config.height_width), config.positions != "learned"
    table = fixed * prod(config.grid) * config.hidden_size
    if config.layers > len(tensors) or pixels > 2**26 or table > 2**24:
        raise ValueError(f"no model: {config} does not fit {len(tensors)} tensors")
    check_shapes({name: tuple(w.shape) for name, w in tensors.items()}, shapes(config))
    for name, tensor in tensors.items():
        check_numbers(name, tensor)
    model = blank(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def check_fit(model: nn.Module, config: ViTConfig) -> None:
    """Raise ValueError, naming tensors and layers, unless `built` would make the same model.

    Compares the shapes of all tensors, and how layers without parts print, such as
    "GELU(approximate='none')", where both models have a layer of that name.
    """
    (found, layers), (expected, usual) = described(model), described(blank(config))
    for name in layers.keys() & usual.keys():
        found[name], expected[name] = layers[name], usual[name]
    check_shapes(found, expected)


def described(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of a model's tensors, and the printed forms of its layers without parts."""
    layers = {plain(n): str(part) for n, part in model.named_modules() if not [*part.children()]}
    return {plain(n): tuple(w.shape) for n, w in model.state_dict().items()}, layers


def plain(name: str) -> str:
    """The name of a tensor or layer without what wrappers add to it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def pack(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file with a header, to which the SHA-256 of the content is added."""
    tensors = {name: w.detach().to("cpu", copy=True).contiguous() for name, w in tensors.items()}
    return to_bytes(tensors, header | {"sha256": digest(tensors, header)})


def unpack(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header that `pack` was given.

    Raises ValueError if there is no such file, or it is not whole, or its format is not `form`.
    """
    with reading(path):
        tensors, header = read_tensors(path)
        if header.get("format") != form:
            raise ValueError(f"it has format {header.get('format')!r}, expected {form!r}")
        said, found = header.pop("sha256", None), digest(tensors, header)
        if said != found and (said is not None or form != FORMAT):  # the first models had none
            raise ValueError(f"it is damaged: its SHA-256 is {found}, it says {said}")
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


def pretrained_names() -> list[str]:
    """The names of the shipped models."""
    return sorted(path.stem for path in PRETRAINED.glob("*.json"))


def pretrained_card(name: str) -> dict[str, Any]:
    """How a shipped model was made: command, seed, versions, seconds, accuracies, SHA-256.

    Raises ValueError for an unknown name.
    """
    if name not in pretrained_names():
        raise unknown("pretrained model", name, pretrained_names())
    return json.loads((PRETRAINED / f"{name}.json").read_text(encoding="utf-8"))


def pretrained_path(name: str) -> Path:
    """The file of a shipped model. Raises ValueError if its SHA-256 is not that on the card."""
    card, path = pretrained_card(name), PRETRAINED / f"{name}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != card["sha256"]:
        raise ValueError(f"{path} is damaged: SHA-256 {found}, the card says {card['sha256']}")
    return path


def load_pretrained(name: str) -> VisionTransformer:
    """A shipped model, in eval mode, in float32 on the CPU.

    Of MNIST: "mnist" has 49 patches, for attention maps; "mnist-int8" is the same with rounded
    weights, as on the live page; "mnist-best" has 4 patches and the fewest errors. Of
    Fashion-MNIST: "fashion" has 49 patches; its file is in half precision.
    Raises ValueError for an unknown name and for a damaged file.
    """
    return load(pretrained_path(name))[0].float()
