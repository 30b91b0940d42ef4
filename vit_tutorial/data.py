"""Data sets in memory as tensors of bytes, large folders on disk, and batches from either."""

import contextlib
import io
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from vit_tutorial.errors import unknown

NAMES = ("mnist", "fashion_mnist", "cifar10", "digits", "folder:PATH")
MEMORY = 4 * 2**30  # bytes; a folder whose images take more is left on disk
WORKERS = min(8, os.cpu_count() or 1)  # processes that read such a folder
GRACE = 30  # seconds in which such a process reads on after SIGTERM
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Files(Dataset[Tensor]):
    """Images left on disk: each is read when it is asked for, and indexing gives a tensor's bytes.

    With `resized` an image is squashed into `height_width`; without, reading raises ValueError for
    one of another size.
    """

    paths: list[Path]
    mode: str  # "L", grey, or "RGB"
    height_width: tuple[int, int]
    resized: bool

    @property
    def shape(self) -> torch.Size:
        """(M C H W), as of a tensor that holds the images."""
        return torch.Size((len(self), len(self.mode), *self.height_width))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: int | slice | Tensor) -> UInt8[Tensor, "*M C H W"]:
        """One image, (C H W), or those in `rows`, (B C H W)."""
        if isinstance(rows, int):
            return self.read(self.paths[rows])
        return torch.stack([self.read(path) for path in self.take(rows).paths])

    def take(self, rows: slice | Tensor) -> "Files":
        """The images in `rows`, unread."""
        return replace(self, paths=[self.paths[i] for i in torch.arange(len(self))[rows].tolist()])

    def read(self, path: Path) -> UInt8[Tensor, "C H W"]:
        """One image from its file; ValueError names a file that cannot be read."""
        image, (H, W) = read_image(path).convert(self.mode), self.height_width
        if self.resized:
            image = v2.functional.resize(image, [H, W], v2.InterpolationMode.BICUBIC)
        elif image.size != (W, H):
            raise ValueError(
                f"{path} has {image.size} pixels, the first image has {(W, H)}: "
                "give an image size to bring all to one"
            )
        return v2.functional.pil_to_tensor(image)


@dataclass(frozen=True)
class Split:
    """Images as bytes, their class numbers, and the training pixels' mean and std per channel.

    `mean` and `std` are those of pixels scaled to 0..1; whoever reads the images subtracts and
    divides, so that no caller normalises by hand. The images of a large folder are still `Files`.
    """

    images: UInt8[Tensor, "M C H W"] | Files
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
    `test` folders of such; `image_size` resizes its images, which stay on disk where they would
    take more than MEMORY. Raises ValueError for an unknown name, files that can neither be found
    nor fetched, an empty folder, or an unreadable image.
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
        (paths, labels), (more, theirs) = (find_images(half, classes) for half in halves)
        rest, first = torch.arange(len(paths) + len(more)).split([len(paths), len(more)])
        paths, labels = paths + more, torch.cat([labels, theirs])
    else:
        classes = class_folders(folder)
        paths, labels = find_images(folder, classes)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        first, rest = order[: len(order) // 5], order[len(order) // 5 :]
    files = image_files(paths, image_size)
    images = files if math.prod(files.shape) > MEMORY else files[:]
    train, test = ((take(images, rows), labels[rows]) for rows in (rest, first))
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


def find_images(folder: Path, classes: list[str]) -> tuple[list[Path], Int[Tensor, " M"]]:
    """Every image file below the class folders, and the number of its class."""
    extensions = set(Image.registered_extensions())
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in extensions)
        if not files:
            raise ValueError(f"no images in {folder / name}")
        paths += files
        labels += [label] * len(files)
    return paths, torch.tensor(labels)


def image_files(paths: list[Path], image_size: int | tuple[int, int] | None) -> Files:
    """The images at one size (without `image_size` the first one's), grey if all are grey."""
    grey, (H, W) = True, (0, 0)
    for path in paths:
        with opened(path) as image:
            H, W = (H, W) if H else (image.height, image.width)
            grey = image.mode in ("1", "L") or image.mode.startswith("I")
        if not grey:
            break
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or (H, W)
    if min(size) < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    return Files(paths, "L" if grey else "RGB", size, resized=image_size is not None)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file whose head is read; ValueError names the file that cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def read_image(path: str | Path) -> Image.Image:
    """An image file, read whole; ValueError names the file that cannot be read."""
    with opened(path) as image:
        image.load()
        if image.mode.startswith("I"):  # 16 bits; `convert` would cut at 255, so scale first
            return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        return image


def take(images: Tensor | Files, rows: Int[Tensor, " B"]) -> Tensor | Files:
    """The images in `rows`; those on disk stay there."""
    return images.take(rows) if isinstance(images, Files) else images[rows]


def split_off_validation(
    name: str,
    train: tuple[Tensor | Files, Tensor],
    test: tuple[Tensor | Files, Tensor],
    classes: list[str],
    seed: int,
) -> Data:
    """Keep a twelfth of the training images (5,000 of MNIST's 60,000) for validation, by seed."""
    (images, labels), M = train, len(train[1])
    order = torch.randperm(M, generator=torch.Generator().manual_seed(seed))
    val, rest = order[: max(1, M // 12)], order[max(1, M // 12) :]
    if not len(rest) or not len(test[1]):
        raise ValueError(f"{name} has {M} training and {len(test[1])} test images: too few")
    pixels = pixel_statistics(images, rest)
    return Data(
        name,
        Split(take(images, rest), labels[rest], *pixels),
        Split(take(images, val), labels[val], *pixels),
        Split(test[0], test[1], *pixels),
        classes,
    )


def pixel_statistics(
    images: Tensor | Files, rows: Int[Tensor, " B"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Mean and std per channel of the pixels, in 0..1; for files, of the first 4,000 in `rows`."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.long)  # exact, without a float copy
    rows = rows[:4000] if isinstance(images, Files) else rows
    for part in read_batches(images, rows.split(100)):
        channels = part.transpose(0, 1).flatten(1).long()
        counts += torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
    shares = counts.double() / counts[0].sum()
    levels = torch.arange(256) / 255
    mean = shares @ levels.double()
    std = (shares @ levels.double() ** 2 - mean**2).sqrt().clamp(min=1e-6)
    return mean.float(), std.float()


def read_batches(
    images: Tensor | Files, parts: Sequence[Int[Tensor, " _"]]
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """The images in each of `parts`, in order; WORKERS processes read those that are files.

    Raises ValueError that names a file that cannot be read.
    """
    if isinstance(images, Tensor):
        yield from (images[rows] for rows in parts)
        return
    loader = DataLoader(
        images,
        batch_sampler=[rows.tolist() for rows in parts],
        num_workers=min(WORKERS, len(parts) // 2),  # none for a single batch
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # or it would draw from PyTorch's own, as dropout does
    )
    try:
        yield from loader
    except ValueError as error:  # a worker's is its whole traceback: keep what stands at its end
        raise ValueError(str(error).rpartition("ValueError: ")[2].strip()) from error


def outlive_signals(worker: int) -> None:
    """Read on after Ctrl-C, and for GRACE seconds after SIGTERM.

    Both may reach a whole group of processes, and the one that trains wants to finish its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where nobody sends SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def batches(
    split: Split,
    batch_size: int,
    generator: torch.Generator | None,
    augment: Augment | None = None,
    device: torch.device | str | None = None,
    start: int = 0,
) -> Iterator[tuple[Float[Tensor, "B C H W"], Int[Tensor, " B"]]]:
    """One pass over a split, from its batch `start` on: normalised images and their labels.

    With a generator the pass is shuffled (and augmented), and the last, smaller batch is left out;
    without one the order is kept and nothing is left out. The order is drawn by the call itself,
    an augmentation when its batch is read. Raises ValueError if a shuffled pass would hold no
    batch.
    """
    M = len(split)
    if generator is None:
        order, end = torch.arange(M), M
    else:
        order, end = torch.randperm(M, generator=generator), M // batch_size * batch_size
        if not end:
            raise ValueError(f"{M} images do not fill a batch of {batch_size}")
    parts = order[:end].split(batch_size)[start:]

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, pixels in zip(parts, read_batches(split.images, parts), strict=True):
            images = pixels.to(device).float() / 255
            if augment is not None and generator is not None:
                images = augment(images, generator)
            yield split.normalise(images), split.labels[rows].to(device)

    return read()


def random_affine(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Turn, scale, slant and shift every image of a batch by its own small amount.

    At strength 1 up to 12 degrees, 12 % larger or smaller, a slant of 0.15 and a shift of 7 % of
    the side; all images in one product, so it costs far less than one image at a time.
    """
    places = affine_places(images, generator, strength)
    return F.grid_sample(images, places, align_corners=False)


def affine_places(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float
) -> Float[Tensor, "B H W 2"]:
    """Where in its image each pixel of a changed one comes from; both sides run from -1 to 1."""
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
    return F.affine_grid(matrices, list(images.shape), align_corners=False)


def random_elastic(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Change as `random_affine` does, and bend every image by a smooth field of its own.

    6 x 6 nodes over the image move by up to 3.6 % of its side at strength 1, a pixel of 28, and
    what lies between follows by bicubic interpolation: a cheaper form of Simard's elastic
    distortions (https://doi.org/10.1109/ICDAR.2003.1227801).
    """
    places = affine_places(images, generator, strength)
    nodes = strength * 0.072 * (torch.rand(len(images), 2, 6, 6, generator=generator) * 2 - 1)
    field = F.interpolate(
        nodes.to(images), size=images.shape[2:], mode="bicubic", align_corners=True
    )
    return F.grid_sample(images, places + field.permute(0, 2, 3, 1), align_corners=False)


def random_photo(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Crop and mirror photographs, then change each in two of eight ways, drawn image by image.

    As in RandAugment (https://arxiv.org/abs/1909.13719), but with a random amount of each change:
    up to 30 degrees, a slant of 0.3, half of brightness, contrast and saturation, a full blur. The
    crop moves an image by up to an eighth of its side. Pixels in 0..1, in and out.
    """
    B, (H, W) = len(images), images.shape[2:]
    ways = torch.rand(8, B, generator=generator).argsort(dim=0) < 2
    amounts = strength * ways * (torch.rand(8, B, generator=generator) * 2 - 1)
    mirror = 1 - 2 * (torch.rand(B, generator=generator) < min(strength, 1) / 2).float()
    right, down = strength * (torch.rand(2, B, generator=generator) * 2 - 1) / 8
    angle, x, y = amounts[0] * math.radians(30), 0.3 * amounts[1], 0.3 * amounts[2]
    cos, sin = angle.cos(), angle.sin()
    rows = [  # by whole pixels, so that an image that is only moved stays sharp
        torch.stack([mirror * (cos - sin * y), cos * x - sin, (right * W).round() * 2 / W], dim=-1),
        torch.stack([mirror * (sin + cos * y), sin * x + cos, (down * H).round() * 2 / H], dim=-1),
    ]
    matrices = torch.stack(rows, dim=1).to(images)  # (B 2 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return change_colours(moved, amounts[3:].to(images))


def change_colours(
    images: Float[Tensor, "B C H W"], amounts: Float[Tensor, "5 B"]
) -> Float[Tensor, "B C H W"]:
    """Brightness, contrast, saturation, sharpness, and inverting what is bright; 0 changes nothing.

    Every image has its own amounts, -1..1; pixels stay in 0..1.
    """
    bright, contrast, colour, sharp, invert = amounts[..., None, None, None]  # each (B 1 1 1)
    images = images * (1 + bright / 2)
    images = images.mean(dim=(1, 2, 3), keepdim=True).lerp(images, 1 + contrast / 2)
    images = images.mean(dim=1, keepdim=True).lerp(images, 1 + colour / 2)
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = blurred.lerp(images, 1 + sharp).clamp(0, 1)
    return torch.where(images > 1 - invert.abs() / 2, 1 - images, images)


def cutmix(
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    classes: int,
    generator: torch.Generator,
    alpha: float = 1.0,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Paste a box of another image of the batch into each; labels become shares of the area.

    A share is drawn from Beta(alpha, alpha), a box around a place of its own for every image, as in
    CutMix (https://arxiv.org/abs/1905.04899). Raises ValueError unless alpha is above 0.
    """
    B, _, H, W = images.shape
    dice = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    side = torch.from_numpy(dice.beta(alpha, alpha, B) ** 0.5)  # of the box, as a share of H or W
    middle = torch.rand(2, B, 1, generator=generator)
    inside = [
        (((torch.arange(n) + 0.5) / n - place).abs() < side[:, None] / 2)
        for n, place in zip((H, W), middle, strict=True)
    ]
    box = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(images.device)  # (B 1 H W)
    other = torch.randperm(B, generator=generator).to(images.device)
    known = F.one_hot(labels, classes).to(images)
    shares = box.to(images).mean(dim=(2, 3))  # (B 1); what the border cuts off does not count
    return torch.where(box, images[other], images), known.lerp(known[other], shares)
