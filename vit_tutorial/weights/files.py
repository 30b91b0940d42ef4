"""Tensors out of files that others wrote: what is wrong in one is a ValueError that names it."""

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from inspect import formatannotation
from math import isfinite
from pathlib import Path
from pickle import UnpicklingError
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vit_tutorial.errors import shown

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # how torch.save began before version 1.6
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside becomes a ValueError that names the file.

    Raises ValueError as well if there is no such file.
    """
    if not os.path.isfile(path):  # also where it is no possible name
        raise ValueError(f"no such checkpoint: {shown(path)}")
    start = f"cannot read {shown(path)}: "
    try:
        yield
    except Exception as error:  # every format has its own ways to fail on a damaged file
        if str(error).startswith(start):
            raise
        said = " ".join(str(error).split())
        if not isinstance(error, ValueError | OSError):
            said = f"it is damaged, or holds no weights ({type(error).__name__}: {said})"
        raise ValueError(start + shown(said, 1000)) from error


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors or arrays of a safetensors, npz or PyTorch file; the header of a safetensors.

    Of a sharded checkpoint give the index, a file that ends in `.index.json`. The content tells
    the kind of a file. Nothing is unpickled but tensors, and a file that would unpack to many
    times its own size is refused. Raises ValueError that names the file.
    """
    with reading(path):
        with path.open("rb") as file:
            start = file.read(len(LEGACY))
        if start.startswith(b"version https"):
            raise ValueError("it is only a Git LFS pointer: fetch the file with git lfs pull")
        if path.name.endswith(".index.json"):
            return shards(path), {}
        if start[:4] == b"PK\3\4":
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
            check_size(path, sum(member.file_size for member in members))
            if all(member.filename.endswith(".npy") for member in members):
                return dict(np.load(path, allow_pickle=False)), {}
        if start[:4] == b"PK\3\4" or start == LEGACY:
            try:
                found = unwrapped(torch.load(path, map_location="cpu", weights_only=True))
            except UnpicklingError as error:  # torch's own says how to run what it holds
                raise ValueError(
                    "it is damaged, or holds objects other than tensors, which are not opened: "
                    "save the model's state_dict() alone"
                ) from error
            sizes = (t.numel() * t.itemsize for t in found.values() if isinstance(t, Tensor))
            check_size(path, sum(sizes))
            return found, {}
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # copied: what safetensors gives lies in the file, which may be replaced
            return {name: file.get_tensor(name).clone() for name in file.keys()}, header  # noqa: SIM118


def is_ours(path: Path) -> bool:
    """Whether a file says that this package wrote it."""
    with suppress(SafetensorError), safe_open(path, framework="pt") as file:
        return str((file.metadata() or {}).get("format")).startswith("vit_tutorial")
    return False


def shards(index: Path) -> dict[str, Any]:
    """All tensors of the files beside an index that it names."""
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if wrong := [name for name in names if Path(name).name != name]:
        raise ValueError(f"expected names of files beside it, got {listed(wrong)}")
    parts = [read_tensors(index.with_name(name))[0] for name in sorted(names)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def check_size(path: Path, size: int) -> None:
    """Raise ValueError if so many bytes are much more than the file has."""
    held = path.stat().st_size
    if size > 16 * held + 2**20:
        raise ValueError(f"its {held:,} bytes would unpack to {size:,}: it lies about its size")


def unwrapped(found: Any) -> dict[str, Any]:
    """The tensors in {"model": {...}, "epoch": 3}, without the "module." before every name.

    Raises ValueError for what is no dict of tensors, and for one that holds several.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds no dict of tensors, but a {type(found).__name__}")
    inner = {str(key): x for key, x in found.items() if isinstance(x, Mapping)}
    inner = {key: x for key, x in inner.items() if any(hasattr(v, "shape") for v in x.values())}
    if len(inner) > 1:
        raise ValueError(f"it holds several models, {listed(inner)}: save the one you mean alone")
    found = next(iter(inner.values()), found)
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise ValueError(f"it names a tensor {wrong[0]!r}: expected text")
    for start in ("module.", "model.", "_orig_mod.") * 2:  # as wrappers put it there, also two
        if found and all(name.startswith(start) for name in found):
            found = {name.removeprefix(start): x for name, x in found.items()}
    return dict(found)


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise ValueError that names a tensor unless it holds finite floats, each in its place."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        wrong = f"is a {tensor.layout} tensor on {tensor.device}: expected numbers"
    elif tensor.dtype not in FLOATS:
        wrong = f"holds {tensor.dtype}, expected floating-point numbers"
    elif not tensor.numel():
        wrong = f"has shape {tuple(tensor.shape)}: it holds no numbers"
    elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
        wrong = f"is expanded: its {tuple(tensor.shape)} numbers are not there"
    elif not tensor.isfinite().all():
        wrong = "holds NaN or infinity"
    else:
        return
    raise ValueError(f"{shown(name)} {wrong}")


def check_shapes(found: Shapes, expected: Shapes) -> None:
    """Raise ValueError that names every tensor which is missing, surplus, or of another shape."""
    wrong = [
        f"{name} {found.get(name, 'missing')}, expected {expected.get(name, 'no such tensor')}"
        for name in found | expected
        if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"the model does not fit its configuration: {listed(wrong, '; ')}")


def listed(found: Iterable[str], between: str = ", ") -> str:
    """The first eight, in order, and how many more there are."""
    found = sorted(found)
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (between.join(map(shown, found[:8])) or "none") + more


def from_json(kind: type[T], found: Any, where: str) -> T:
    """A dataclass with the fields that a JSON object holds; lists become tuples.

    Raises ValueError for a field that is unknown, missing, or of another type than the class says.
    """
    hints = get_type_hints(kind)
    needed = {f.name for f in fields(kind) if f.default is MISSING}  # type: ignore[arg-type]
    if strange := (needed - set(found)) | (set(found) - set(hints)):
        raise ValueError(f"{where} has fields that are missing or unknown: {listed(strange)}")
    for name, value in found.items():
        if not is_a(value, hints[name]):
            raise ValueError(
                f"{name} in {where} is {value!r}, expected {formatannotation(hints[name])}"
            )
    return kind(**{n: tuple(x) if isinstance(x, list) else x for n, x in found.items()})


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is what a type hint says; a list stands for a tuple."""
    parts = get_args(hint)
    if get_origin(hint) is UnionType:
        return any(is_a(value, part) for part in parts)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(parts) and all(map(is_a, value, parts))
    if hint is float:
        return type(value) in (int, float) and isfinite(value)
    return type(value) is hint
