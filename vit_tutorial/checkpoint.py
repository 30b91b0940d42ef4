"""Trained models on disk: safetensors with the config inside, written whole or not at all."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from vit_tutorial.data import Data, read_image
from vit_tutorial.errors import unknown
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import State

FORMAT, STATE_FORMAT = "vit_tutorial 1", "vit_tutorial state 1"
PRETRAINED = Path(__file__).parent / "pretrained"
FOREIGN = (".npz", ".pth", ".pt", ".bin")  # files of others, beside their safetensors


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input: size in pixels, mean and std of pixels in 0..1.

    An image is resized to `resize`, a (height, width) or the length of its shorter side, and what
    lies in the middle is kept; without `resize` it is squashed into the model's size.
    """

    height_width: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bicubic"

    def pixels(self, image: Image.Image | str | Path) -> Float[Tensor, "1 C H W"]:
        """The image at the model's size, with pixels in 0..1; for drawing."""
        image = image if isinstance(image, Image.Image) else read_image(image)
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
        H, W = self.height_width
        size = self.height_width if self.resize is None else self.resize
        edges = [size] if isinstance(size, int) else list(size)
        image = F.resize(image, edges, InterpolationMode(self.interpolation))
        image = F.center_crop(image, [H, W])
        array = np.asarray(image, dtype=np.float32).reshape(H, W, -1) / 255
        return torch.from_numpy(array).permute(2, 0, 1)[None]

    def normalise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in 0..1 to what the model was trained on."""
        mean, std = (torch.tensor(x).to(images).view(-1, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def __call__(self, image: Image.Image | str | Path) -> Float[Tensor, "1 C H W"]:
        """A batch of one, ready for the model; ValueError names an unreadable file."""
        return self.normalise(self.pixels(image))


def preprocessing(data: Data) -> Preprocessing:
    """The preprocessing that batches of `data` get."""
    H, W = data.train.images.shape[-2:]
    mean, std = tuple(data.train.mean.tolist()), tuple(data.train.std.tolist())
    return Preprocessing((H, W), mean, std, tuple(data.classes))


def save(path: str | Path, model: VisionTransformer, **more: Any) -> None:
    """Write weights, config and `more` (anything JSON can hold; a Preprocessing too) to one file.

    The file is written under another name, flushed to disk, and only then renamed: whatever
    happens, `path` holds either the old checkpoint or the new one.
    """
    more = {k: asdict(v) if isinstance(v, Preprocessing) else v for k, v in more.items()}
    header = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "more": json.dumps(more),
    }
    write(path, pack(model.state_dict(), header))


def save_state(path: str | Path, state: State, about: dict[str, Any]) -> None:
    """Write all that resumes a training, and what `about` says of it, to one file, as `save`."""
    told = json.dumps([state.epoch, state.step, state.seconds, about])
    write(path, pack(state.tensors, {"format": STATE_FORMAT, "state": told}))


def load_state(path: str | Path) -> tuple[State, dict[str, Any]]:
    """What `save_state` wrote. Raises ValueError for a missing, damaged or foreign file."""
    tensors, header = unpack(Path(path), STATE_FORMAT)
    epoch, step, seconds, about = json.loads(header["state"])
    return State(epoch, step, seconds, tensors), about


def pack(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file that holds a SHA-256 of its own content."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return to_bytes(tensors, header | {"sha256": digest(tensors, header)})


def unpack(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `pack` was given; ValueError if there is no such file, whole and of that format."""
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    if header.get("format") != form:
        raise ValueError(f"{path} has format {header.get('format')!r}, expected {form!r}")
    said, found = header.pop("sha256", None), digest(tensors, header)
    if said != found and (said is not None or form != FORMAT):  # the first models had none
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, it says {said}")
    return tensors, header


def digest(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """The SHA-256 of names, shapes, kinds and bytes of tensors on the CPU, and of a header."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def fingerprint(data: Data) -> str:
    """A SHA-256 of all images and labels; of images left on disk their names and sizes."""
    found = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        if isinstance(split.images, Tensor):
            found.update(split.images.contiguous().numpy().data)
        else:
            files = [f"{p.parent.name}/{p.name} {p.stat().st_size}" for p in split.images.paths]
            found.update("\n".join(files).encode())
        for tensor in (split.labels, split.mean, split.std):
            found.update(tensor.numpy().data)
    return found.hexdigest()


def write(path: str | Path, content: bytes) -> None:
    """Replace a file in one step, so that it is never half-written.

    Raises OSError that names the file if there is no room, or no right to write.
    """
    path = Path(path)
    try:
        replace_file(path, content)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}; what it held before is whole") from error


def replace_file(path: Path, content: bytes) -> None:
    """Write to another file beside it, to the disk itself, and only then give it the name."""
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


def load(path: str | Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """The model, in eval mode on the CPU, and what else was saved with it.

    Raises ValueError for a missing, damaged or foreign file, and for tensors that do not fit the
    config: nothing is guessed, nothing is unpickled.
    """
    path = Path(path)
    tensors, header = unpack(path, FORMAT)
    try:
        config, more = json.loads(header["config"]), json.loads(header["more"])
        if isinstance(config["image_size"], list):
            config["image_size"] = tuple(config["image_size"])
        model = VisionTransformer(ViTConfig(**config))
        model.load_state_dict(tensors)
        if "preprocessing" in more:
            parts: dict[str, Any] = more["preprocessing"]
            parts = {k: tuple(v) if isinstance(v, list) else v for k, v in parts.items()}
            more["preprocessing"] = Preprocessing(**parts)
    except RuntimeError as error:
        raise ValueError(f"the tensors in {path} do not fit its config: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the header of {path} is damaged: {error}") from error
    return model.eval(), more


def pretrained_card(name: str) -> dict[str, Any]:
    """How a shipped model was made: command, seed, versions, seconds, accuracies, SHA-256."""
    known = sorted(path.stem for path in PRETRAINED.glob("*.json"))
    if name not in known:
        raise unknown("pretrained model", name, known)
    return json.loads((PRETRAINED / f"{name}.json").read_text())


def pretrained_path(name: str) -> Path:
    """The file of a shipped model; ValueError if its bytes are not those that the card states."""
    card, path = pretrained_card(name), PRETRAINED / f"{name}.safetensors"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if found != card["sha256"]:
        raise ValueError(f"{path} is damaged: SHA-256 {found}, the card says {card['sha256']}")
    return path


def load_pretrained(name: str) -> VisionTransformer:
    """A trained model that comes with the package, in eval mode.

    "mnist" has 49 patches, for maps of attention; "mnist-best" has four, and the fewest errors.
    """
    return load(pretrained_path(name))[0]


def find(name: str | Path) -> Path:
    """The file of a checkpoint: the path itself, or where a shipped model of that name lies."""
    is_file = Path(name).suffix in (".safetensors", *FOREIGN) or Path(name).is_file()
    return Path(name) if is_file else pretrained_path(str(name))


def is_ours(path: Path) -> bool:
    """Whether `load` is to read a file, or say what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format")).startswith("vit_tutorial")
    except (SafetensorError, OSError):
        return path.suffix not in FOREIGN


def seed_of(name: str | Path) -> int:
    """The seed that a model's data were split with; 0 for the weights of others."""
    path = Path(name) if Path(name).is_file() else PRETRAINED / f"{name}.safetensors"
    return load(path)[1].get("seed", 0) if path.is_file() and is_ours(path) else 0


def from_checkpoint(name: str | Path) -> tuple[VisionTransformer, Preprocessing]:
    """A model in eval mode and its preprocessing.

    `name` is a shipped model ("mnist"), a file of ours, a file or folder that another library
    wrote (`hub.from_file`), or what a library calls a model that it fetches itself:
    "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "torchvision:vit_b_16",
    "hf:google/vit-base-patch16-224". Raises ValueError where nothing can be had, with what to
    fetch and where to put it.
    """
    from vit_tutorial import hub

    library, _, rest = str(name).partition(":")
    if library in hub.FETCH:
        return hub.FETCH[library](rest)
    if Path(name, "config.json").is_file():
        return hub.fetch_hf(str(name))
    path = find(name)
    if not is_ours(path):
        return hub.from_file(path)
    model, more = load(path)
    if "preprocessing" not in more:
        raise ValueError(f"{path} does not say how its images are prepared")
    return model, more["preprocessing"]
