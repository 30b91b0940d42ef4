"""Data sets in memory as tensors of bytes, batches from them, and one augmentation."""

import contextlib
import gzip
import io
import math
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.errors import unknown

NAMES = ("mnist", "fashion_mnist", "cifar10", "digits")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Split:
    """Images as bytes, their class numbers, and the training pixels' mean and std per channel.

    `mean` and `std` are those of pixels scaled to 0..1; `batches` subtracts and divides, so that
    no caller normalises by hand. Raises ValueError for parts that do not fit together.
    """

    images: UInt8[Tensor, "M C H W"]
    labels: Int[Tensor, " M"]
    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]

    def __post_init__(self) -> None:
        images, kind = self.images, getattr(self.images, "dtype", torch.uint8)  # files have none
        if kind != torch.uint8:  # `batches` divides by 255
            raise ValueError(f"expected images as bytes (uint8, 0 to 255), got {kind}")
        if self.labels.is_floating_point() or len(images) != len(self.labels):
            found = f"{len(self.labels)} of {self.labels.dtype}"
            raise ValueError(f"expected {len(images)} labels as whole numbers, got {found}")
        C, sizes = images.shape[1], (len(self.mean), len(self.std))
        if len(images.shape) != 4 or sizes != (C, C):
            raise ValueError(
                f"expected images (M C H W) with C means and stds, got {tuple(images.shape)} with "
                f"{sizes[0]} and {sizes[1]}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, parts: Sequence[Int[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "B C H W"]]:
        """The images of each part, a tensor of row numbers, one part after the other."""
        return (self.images[rows] for rows in parts)

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


def load(name: str, root: str | Path | None = None, seed: int = 0) -> Data:
    """A data set by name: "mnist", "fashion_mnist", "cifar10" or "digits".

    All but the digits are downloaded by torchvision unless they lie under `root`, else under
    $VIT_TUTORIAL_DATA, else in the user's cache folder; Fashion-MNIST is unpacked from Debian's
    package dataset-fashion-mnist where that is installed. The test images are the data set's own;
    `seed` chooses the validation images. Raises ValueError for an unknown name, and for files that
    can neither be found nor fetched. (Folders of images: `vit_tutorial.lab.folders.load`.)
    """
    if name.startswith("folder:"):
        raise ValueError(f"for {name} use vit_tutorial.lab.folders.load")
    if name not in NAMES:
        raise unknown("data set", name, [*NAMES, "folder:PATH"])
    if name == "digits":  # the last fifth was written by other people than most of the rest
        (images, labels), classes = digits(), [str(digit) for digit in range(10)]
        train, test = (images[:-360], labels[:-360]), (images[-360:], labels[-360:])
        return split_off_validation(name, train, test, classes, seed)
    parts = both_halves(name, data_root(root))
    train, test = ((as_bytes(part.data), torch.as_tensor(part.targets)) for part in parts)
    classes = [str(number) for number in range(10)] if name == "mnist" else list(parts[0].classes)
    return split_off_validation(name, train, test, classes, seed)


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets lie: `root`, else $VIT_TUTORIAL_DATA, else a folder in the user's cache.

    Raises ValueError where there is no home folder for the cache.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vit_tutorial"
    try:
        return Path(root or os.environ.get("VIT_TUTORIAL_DATA") or cache).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error} Set VIT_TUTORIAL_DATA to a folder for data sets.") from error


def default_dataset() -> str:
    """ "mnist" where it is at hand or can be fetched (12 MB, once), else "digits", with a note.

    With VIT_TUTORIAL_BUDGET=quick it is always "digits", which needs neither disk nor network.
    """
    if os.environ.get("VIT_TUTORIAL_BUDGET") == "quick":
        return "digits"
    try:
        both_halves("mnist", data_root())
    except ValueError as error:
        print(
            f"Note: {error}\nSo scikit-learn's 1,797 digits stand in for MNIST. Figures will "
            "differ from the book's."
        )
        return "digits"
    return "mnist"


def both_halves(name: str, folder: Path) -> list[Any]:
    """torchvision's training and test data; ValueError says what is wrong and what to do."""
    places = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}
    place = folder / places.get(name, "cifar-10-batches-py")
    there = place.is_dir() and any(place.iterdir())
    try:
        parts = [fetch(name, folder, train) for train in (True, False)]
        for part in parts:
            check_labels(torch.as_tensor(part.targets), 10)
            if not 0 < len(part.data) == len(part.targets):
                raise ValueError(f"{len(part.data)} images and {len(part.targets)} labels")
        return parts
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        why = " ".join(str(error).split()) or "files are cut short"  # of several lines
        if there:
            raise ValueError(f"{place} is damaged ({why}): delete it, to fetch it anew") from error
        raise ValueError(
            f"{name} is neither in {folder} nor could it be fetched ({why}). Put it there "
            'as torchvision.datasets expects it, set VIT_TUTORIAL_DATA, or use load("digits").'
        ) from error


def fetch(name: str, folder: Path, train: bool) -> Any:
    """A torchvision data set from `folder`, downloaded if it is not there; says so if it does."""
    from torchvision import datasets  # takes seconds to import, and most uses do without

    kinds = {"fashion_mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    source = kinds.get(name, datasets.MNIST)
    with contextlib.suppress(RuntimeError):  # torchvision: "Dataset not found"
        return source(folder, train=train, download=False)
    if name == "fashion_mnist" and DEBIAN.is_dir():
        print(f"unpacking {DEBIAN} into {folder}", flush=True)
        place = folder / source.__name__ / "raw"
        place.mkdir(parents=True, exist_ok=True)
        for archive in DEBIAN.glob("*.gz"):
            (place / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
        return source(folder, train=train, download=False)
    print(f"fetching {source.__name__} into {folder}", flush=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds; without it a silent network hangs for minutes
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return source(folder, train=train, download=True)
    finally:
        socket.setdefaulttimeout(patience)


def as_bytes(images: Any) -> UInt8[Tensor, "M C H W"]:
    """torchvision's (M H W) tensor or (M H W 3) array as (M C H W)."""
    images = torch.as_tensor(images)
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def digits() -> tuple[UInt8[Tensor, "M 1 28 28"], Int[Tensor, " M"]]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, laid out like MNIST's.

    Scaled into a box of 20 x 20, then placed in 28 x 28 with the centre of mass in the middle.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    small = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = F.interpolate(small, size=(20, 20), mode="bicubic").clamp(0, 1)
    images = F.pad(images, (4, 4, 4, 4))
    places = torch.arange(28.0) - 13.5
    mass = images.sum(dim=(1, 2, 3))
    down = (images.sum(dim=(1, 3)) @ places / mass).round().int().tolist()
    right = (images.sum(dim=(1, 2)) @ places / mass).round().int().tolist()
    moves = zip(images, down, right, strict=True)
    centred = torch.stack([image.roll((-dy, -dx), (1, 2)) for image, dy, dx in moves])
    return (255 * centred).round().byte(), torch.as_tensor(labels).long()


def split_off_validation(
    name: str,
    train: tuple[UInt8[Tensor, "M C H W"], Int[Tensor, " M"]],
    test: tuple[UInt8[Tensor, "_ C H W"], Int[Tensor, " _"]],
    classes: list[str],
    seed: int,
) -> Data:
    """Keep a twelfth of the training images (5,000 of MNIST's 60,000) for validation, by seed."""
    (images, labels), M = train, len(train[1])
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    val, rest = order[: max(1, M // 12)], order[max(1, M // 12) :]
    pixels = pixel_statistics(images[rows] for rows in rest.split(100))
    left, held_out = (Split(images[rows], labels[rows], *pixels) for rows in (rest, val))
    return Data(name, left, held_out, Split(*test, *pixels), classes)


def pixel_statistics(
    parts: Iterable[UInt8[Tensor, "B C H W"]],
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and standard deviation per channel of all pixels, in 0..1."""
    counts = torch.zeros(1, 256, dtype=torch.long)  # exact, without a float copy
    for part in parts:
        channels = part.transpose(0, 1).flatten(1).long()
        counts = counts + torch.stack([torch.bincount(c, minlength=256) for c in channels])
    shares = counts.double() / counts[0].sum()
    levels = (torch.arange(256) / 255).double()
    mean = shares @ levels
    std = (shares @ levels**2 - mean**2).sqrt().clamp(min=1e-6)
    return mean.float(), std.float()


def batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator | None,
    augment: Augment | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    start: int = 0,
) -> Iterator[tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"]]]:
    """One pass over a split, from its batch `start` on: normalised images and their labels.

    With a generator the pass is shuffled (and augmented), and the last, smaller batch is left out;
    without one the order is kept and nothing is left out. The order is drawn at the call, an
    augmentation when its batch is read. Raises ValueError if a shuffled pass would hold no batch.
    """
    M = len(split)
    if generator is None:
        order, end = torch.arange(M), M
    else:
        order, end = torch.randperm(M, generator=generator), M // batch_size * batch_size
        if not end:
            raise ValueError(f"{M} images do not fill a batch of {batch_size}")
    parts = order[:end].split(batch_size)[start:]

    split = replace(split, mean=split.mean.to(device), std=split.std.to(device))  # once

    def prepared() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, pixels in zip(parts, split.read(parts), strict=True):
            images = pixels.to(device, non_blocking=True)
            images = images.to(torch.promote_types(dtype, torch.float32)) / 255
            if augment is not None and generator is not None:
                images = augment(images, generator)
            yield (
                split.normalise(images).to(dtype),
                split.labels[rows].to(device, non_blocking=True),
            )

    return prepared()


def random_affine(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Turn, scale, shear and shift every image of a batch by its own small amount.

    At strength 1 up to 12 degrees, 12 % larger or smaller, a shear of 0.15 and a shift of 7 % of
    the side; all images in one product, so it costs far less than one image at a time.
    """
    places = affine_places(images, random_matrices(len(images), generator, strength))
    return F.grid_sample(images, places, align_corners=False)


def random_matrices(B: int, generator: torch.Generator, strength: float) -> Float[Tensor, "B 2 3"]:
    """What `random_affine` does to each of B images, as `affine_places` takes it."""
    draw = strength * (torch.rand(6, B, generator=generator) * 2 - 1)
    angle, shear = draw[0] * math.radians(12), draw[1] * 0.15
    width, height = 1 + 0.12 * draw[2], 1 + 0.12 * draw[3]
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos * width, (shear * cos - sin) * height, 0.14 * draw[4]], dim=-1)
    second = torch.stack([sin * width, (shear * sin + cos) * height, 0.14 * draw[5]], dim=-1)
    return torch.stack([first, second], dim=1)


def affine_places(
    images: Float[Tensor, "B C H W"], matrices: Float[Tensor, "B 2 3"]
) -> Float[Tensor, "B H W 2"]:
    """Where in its image each pixel of a changed one comes from, as `F.grid_sample` takes it.

    The left 2 x 2 of a matrix acts on pixels, so that a turn is a turn in images that are not
    square too; the last column is a shift as a share of half the width and half the height.
    """
    H, W = images.shape[2:]
    stretch = torch.tensor([[1, H / W, 1], [W / H, 1, 1]])  # grid_sample's sides are both 2 long
    matrices = (matrices * stretch).to(images, non_blocking=True)
    return F.affine_grid(matrices, list(images.shape), align_corners=False)
