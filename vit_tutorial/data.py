"""Small data sets, held whole in memory as tensors of bytes, and batches from them."""

import contextlib
import io
import math
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torchvision import datasets

from vit_tutorial.errors import unknown

NAMES = ("mnist", "fashion_mnist", "cifar10", "digits", "folder:PATH")
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Images as bytes, their class numbers, and the training pixels' mean and std per channel.

    `mean` and `std` are those of pixels scaled to 0..1; whoever reads the images subtracts and
    divides, so that no caller normalises by hand.
    """

    images: UInt8[Tensor, "M C H W"]
    labels: Int[Tensor, " M"]
    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]

    def __len__(self) -> int:
        return len(self.labels)

    def normalise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in 0..1 to mean 0 and standard deviation 1 (over the training images)."""
        mean, std = (number.to(images).view(-1, 1, 1) for number in (self.mean, self.std))
        return (images - mean) / std


@dataclass(frozen=True)
class Data:
    """A data set: three splits that share no image, and the names of the classes.

    Raises ValueError if a label has no class name.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: list[str]

    def __post_init__(self) -> None:
        for split in (self.train, self.val, self.test):
            check_labels(split.labels, len(self.classes))


def check_labels(labels: Int[Tensor, " M"], K: int) -> None:
    """Raise ValueError unless all labels lie in 0..K-1."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < K:
        low, high = int(labels.min()), int(labels.max())
        raise ValueError(f"labels must lie in 0..{K - 1} for {K} classes, got {low}..{high}")


def load(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
) -> Data:
    """A data set by name: "mnist", "fashion_mnist", "cifar10", "digits" or "folder:PATH".

    The downloaded ones lie under `root`, else under $VIT_TUTORIAL_DATA, else in the user's cache
    folder, and are fetched if they are not there. The test images are the data set's own; `seed`
    picks the validation images. A folder holds one sub-folder of images per class, or `train` and
    `test` folders of such; `image_size` resizes its images. Raises ValueError for an unknown name,
    files that can neither be found nor fetched, an empty folder, or an unreadable image.
    """
    if name.startswith("folder:"):
        return load_folder(Path(name.removeprefix("folder:")).expanduser(), seed, image_size)
    if name not in NAMES or name == "folder:PATH":
        raise unknown("data set", name, NAMES)
    if image_size is not None:
        raise ValueError(f"image_size={image_size} is for folders; {name} has a size of its own")
    if name == "digits":
        images, labels = digits()
        # the last fifth was written by other people than most of the rest, as in MNIST
        train, test = (images[:-360], labels[:-360]), (images[-360:], labels[-360:])
        return split_off_validation(name, train, test, [str(digit) for digit in range(10)], seed)
    source = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }[name]
    folder = data_root(root)
    try:
        parts = [fetch(source, folder, train) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split()) or "the files are damaged"  # of several lines
        raise ValueError(
            f"{name} is neither in {folder} nor could it be fetched ({why}). Put it there as "
            f'torchvision.datasets expects it, set VIT_TUTORIAL_DATA, or use load("digits").'
        ) from error
    train, test = ((as_bytes(part.data), torch.as_tensor(part.targets)) for part in parts)
    classes = [str(number) for number in range(10)] if name == "mnist" else list(parts[0].classes)
    return split_off_validation(name, train, test, classes, seed)


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets lie: `root`, else $VIT_TUTORIAL_DATA, else a folder in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "vit_tutorial"
    return Path(root or os.environ.get("VIT_TUTORIAL_DATA") or cache).expanduser()


def default_dataset() -> str:
    """ "mnist" where it is at hand or can be fetched (12 MB, once), else "digits", with a note.

    With VIT_TUTORIAL_BUDGET=quick it is always "digits", which needs neither disk nor network.
    """
    if os.environ.get("VIT_TUTORIAL_BUDGET") == "quick":
        return "digits"
    try:
        fetch(datasets.MNIST, data_root(), train=True)
    except (OSError, RuntimeError, ValueError, AssertionError):
        print(
            "Note: MNIST is not here and could not be fetched, so scikit-learn's 1,797 digits "
            "stand in for it. Figures will differ from the book's."
        )
        return "digits"
    return "mnist"


def fetch(source: type, folder: Path, train: bool) -> "datasets.VisionDataset":
    """A torchvision data set from `folder`, downloaded if it is not there; says so if it does."""
    with contextlib.suppress(RuntimeError):  # torchvision: "Dataset not found"
        return source(folder, train=train, download=False)
    print(f"fetching {source.__name__} into {folder}", flush=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds; without it a silent network hangs for minutes
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return source(folder, train=train, download=True)
    finally:
        socket.setdefaulttimeout(patience)


def as_bytes(images: Tensor | np.ndarray) -> UInt8[Tensor, "M C H W"]:
    """torchvision's (M H W) tensor or (M H W 3) array as (M C H W)."""
    images = torch.as_tensor(images)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def digits() -> tuple[UInt8[Tensor, "M 1 28 28"], Int[Tensor, " M"]]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, laid out like MNIST's.

    Scaled into a box of 20 x 20, then placed in 28 x 28 with the centre of mass in the middle.
    """
    pixels, labels = load_digits(return_X_y=True)
    small = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(small, size=(20, 20), mode="bicubic").clamp(0, 1)
    images = F.pad(images, (4, 4, 4, 4))
    places = torch.arange(28.0) - 13.5
    mass = images.sum(dim=(1, 2, 3))
    down = (images.sum(dim=(1, 3)) @ places / mass).round().int().tolist()
    right = (images.sum(dim=(1, 2)) @ places / mass).round().int().tolist()
    centred = [
        image.roll((-dy, -dx), (1, 2)) for image, dy, dx in zip(images, down, right, strict=True)
    ]
    return (255 * torch.stack(centred)).round().byte(), torch.as_tensor(labels).long()


def load_folder(folder: Path, seed: int, image_size: int | tuple[int, int] | None) -> Data:
    """A user's own images: one sub-folder per class, or `train` and `test` folders of such.

    Without a `test` folder every fifth image, by seed, becomes the test split.
    """
    halves = [folder / "train", folder / "test"]
    if all(half.is_dir() for half in halves):
        classes = class_folders(halves[0])
        if class_folders(halves[1]) != classes:
            raise ValueError(f"{halves[0]} and {halves[1]} do not hold the same classes")
        train, test = (read_images(half, classes, image_size) for half in halves)
    else:
        classes = class_folders(folder)
        images, labels = read_images(folder, classes, image_size)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        first, rest = order[: len(order) // 5], order[len(order) // 5 :]
        train, test = (images[rest], labels[rest]), (images[first], labels[first])
    C = max(train[0].shape[1], test[0].shape[1])  # one half may be grey and the other not
    train, test = ((part[0].expand(-1, C, -1, -1), part[1]) for part in (train, test))
    return split_off_validation(f"folder:{folder}", train, test, classes, seed)


def class_folders(folder: Path) -> list[str]:
    """The names of the sub-folders, sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    folders = (path for path in folder.iterdir() if path.is_dir())
    names = sorted(path.name for path in folders if not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} is empty: expected one sub-folder of images for each class")
    return names


def read_images(
    folder: Path, classes: list[str], image_size: int | tuple[int, int] | None
) -> tuple[UInt8[Tensor, "M C H W"], Int[Tensor, " M"]]:
    """Every image below the class folders, grey if all are grey, else in colour."""
    extensions = set(Image.registered_extensions())
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in extensions)
        if not files:
            raise ValueError(f"no images in {folder / name}")
        paths += files
        labels += [label] * len(files)
    images = [read_image(path) for path in paths]
    if image_size is None and len({image.size for image in images}) > 1:
        odd = next(i for i, image in enumerate(images) if image.size != images[0].size)
        raise ValueError(
            f"{paths[odd]} has {images[odd].size} pixels, {paths[0]} has {images[0].size}: "
            "give an image size to bring all to one"
        )
    mode = "L" if all(image.mode in ("1", "L") for image in images) else "RGB"
    H, W = (image_size, image_size) if isinstance(image_size, int) else image_size or (0, 0)
    arrays = []
    for image in images:
        image = image.convert(mode)
        image = image.resize((W, H), Image.Resampling.BICUBIC) if image_size else image
        arrays.append(np.asarray(image).reshape(image.height, image.width, -1))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), torch.tensor(labels)


def read_image(path: str | Path) -> Image.Image:
    """An image file, read whole; ValueError names the file that cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith("I"):  # 16 bits; `convert` would cut at 255, so scale first
                return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def split_off_validation(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: list[str],
    seed: int,
) -> Data:
    """Keep a twelfth of the training images (5,000 of MNIST's 60,000) for validation, by seed."""
    (images, labels), M = train, len(train[1])
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    val, rest = order[: max(1, M // 12)], order[max(1, M // 12) :]
    if not len(rest) or not len(test[1]):
        raise ValueError(f"{name} has {M} training and {len(test[1])} test images: too few")
    counts = [torch.bincount(c.flatten().long(), minlength=256) for c in images[rest].unbind(1)]
    shares = torch.stack(counts).double() / counts[0].sum()  # exact, and no float copy of the data
    levels = torch.arange(256) / 255
    mean = shares @ levels.double()
    std = (shares @ levels.double() ** 2 - mean**2).sqrt().clamp(min=1e-6)
    pixels = (mean.float(), std.float())
    return Data(
        name,
        Split(images[rest], labels[rest], *pixels),
        Split(images[val], labels[val], *pixels),
        Split(test[0], test[1], *pixels),
        classes,
    )


def batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator | None,
    augment: Augment | None = None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"]]]:
    """One pass over a split: normalised images and their labels.

    With a generator the pass is shuffled (and augmented), and the last, smaller batch is left out;
    without one the order is kept and nothing is left out. Raises ValueError if a shuffled pass
    would hold no batch.
    """
    M = len(split)
    if generator is None:
        order, end = torch.arange(M), M
    else:
        order, end = torch.randperm(M, generator=generator), M // batch_size * batch_size
        if not end:
            raise ValueError(f"{M} images do not fill a batch of {batch_size}")
    for rows in order[:end].split(batch_size):
        images = split.images[rows].to(device).float() / 255
        if augment is not None and generator is not None:
            images = augment(images, generator)
        yield split.normalise(images), split.labels[rows].to(device)


def random_affine(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Turn, scale, slant and shift every image of a batch by its own small amount.

    At strength 1 up to 12 degrees, 12 % larger or smaller, a slant of 0.15 and a shift of 7 % of
    the side; all images in one product, so it costs far less than one image at a time.
    """
    B = len(images)
    draw = strength * (torch.rand(6, B, generator=generator) * 2 - 1)
    angle, slant = draw[0] * math.radians(12), draw[1] * 0.15
    width, height = 1 + 0.12 * draw[2], 1 + 0.12 * draw[3]
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * width, (slant * cos - sin) * height, 0.14 * draw[4]], dim=-1),
        torch.stack([sin * width, (slant * sin + cos) * height, 0.14 * draw[5]], dim=-1),
    ]
    matrices = torch.stack(rows, dim=1).to(images)  # (B 2 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
