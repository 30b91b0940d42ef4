"""Folders of images as data sets: split class by class, and left on disk where they are large."""

import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vit_tutorial import data
from vit_tutorial.data import Data, Split, pixel_statistics
from vit_tutorial.lab.distributed import rank
from vit_tutorial.weights.preprocessing import opened, read_image

MEMORY = 4 * 2**30  # bytes; a folder whose images take more is left on disk
WORKERS = min(8, os.cpu_count() or 1)  # processes that read such a folder
SAMPLE = 4000  # training images of such a folder whose pixels give mean and std
GRACE = 30  # seconds in which such a process reads on after SIGTERM
UNREADABLE = {"BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}  # Pillow knows but the names
Listed = tuple[Path, int]  # an image file and the number of its class


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

    def as_read(self, channels: int, height_width: tuple[int, int]) -> "Files":
        """The same files, read in so many channels at this size; ValueError unless 1 or 3."""
        if channels not in (1, 3):
            raise ValueError(f"the model reads {channels} channels, image files have 1 or 3")
        mode = "L" if channels == 1 else "RGB"
        return replace(self, mode=mode, height_width=height_width, resized=True)

    def read(self, path: Path) -> UInt8[Tensor, "C H W"]:
        """One image from its file; ValueError names a file that cannot be read."""
        image, (H, W) = read_image(path).convert(self.mode), self.height_width
        if self.resized:
            image = image.resize((W, H), Image.Resampling.BICUBIC)
        elif image.size != (W, H):
            raise ValueError(
                f"{path} has {image.size} pixels, the first image has {(W, H)}: "
                "give an image size to bring all to one"
            )
        return torch.from_numpy(np.array(image)).view(H, W, -1).permute(2, 0, 1)


@dataclass(frozen=True)
class FileSplit(Split):
    """A split whose images stay on disk; worker processes read the batches."""

    images: Files  # type: ignore[assignment]  # has a tensor's shape, length and indexing

    def read(self, parts: Sequence[Int[Tensor, " _"]]) -> Iterator[UInt8[Tensor, "B C H W"]]:
        """The images of each part, a tensor of row numbers, read by up to WORKERS processes.

        Raises ValueError that names a file that cannot be read.
        """
        loader = DataLoader(
            self.images,
            batch_sampler=[rows.tolist() for rows in parts],
            num_workers=min(WORKERS, len(parts) // 2),  # none for a single batch
            worker_init_fn=outlive_signals,
            collate_fn=as_array,
            generator=torch.Generator(),  # or it would draw from PyTorch's own, as dropout does
        )
        try:
            yield from map(torch.from_numpy, loader)
        except ValueError as error:  # a worker's is its whole traceback: keep the last line
            raise ValueError(str(error).rpartition("ValueError: ")[2].strip()) from error


def as_array(images: list[Tensor]) -> np.ndarray:
    """A batch as an array, which goes through a pipe: tensors would need room in /dev/shm."""
    return torch.stack(images).numpy()


def outlive_signals(worker: int) -> None:
    """Let a worker process ignore Ctrl-C, and read on for GRACE seconds after SIGTERM.

    Both may reach a whole group of processes, and the one that trains wants to finish its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows, where nobody sends SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def load(
    name: str,
    root: str | Path | None = None,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
) -> Data:
    """A data set by name: "folder:PATH", or any name that `vit_tutorial.data.load` knows.

    A folder holds one sub-folder of images per class, or `train` and `test` folders of such. The
    splits are stratified: of every class, by `seed`, a fifth of the images are for testing unless
    there is a `test` folder, and a twelfth of the others for validation, at least one each.
    `image_size` resizes the images, which stay on disk where they would take more than MEMORY.
    Raises ValueError for an unknown name, an empty folder, an unreadable image, and a class with
    too few images to be in every split.
    """
    if name.startswith("folder:"):
        return load_folder(Path(name.removeprefix("folder:")).expanduser(), seed, image_size)
    if image_size is not None and name in data.NAMES:
        raise ValueError(f"image_size={image_size} is for folders; {name} has a size of its own")
    return data.load(name, root, seed)


def load_folder(folder: Path, seed: int, image_size: int | tuple[int, int] | None) -> Data:
    """The images of a folder in three splits, with the mean and std of the training pixels."""
    generator, halves = torch.Generator().manual_seed(seed), (folder / "train", folder / "test")
    if all(half.is_dir() for half in halves):
        classes = class_folders(halves[0])
        if class_folders(halves[1]) != classes:
            raise ValueError(f"{halves[0]} and {halves[1]} do not hold the same classes")
        rest, held_out = find_images(halves[0], classes, least=2), find_images(halves[1], classes)
    else:
        classes = class_folders(folder)
        rest, held_out = split_off(find_images(folder, classes, least=3), 5, generator)
    parts = (*split_off(rest, 12, generator), held_out)
    files = image_files(sorted(path for part in parts for path, _ in part), image_size)
    drafts = [split_of(part, files) for part in parts]
    rows = torch.arange(len(drafts[0]))
    if isinstance(drafts[0], FileSplit):
        rows = rows[:SAMPLE]  # in random order already
    mean, std = pixel_statistics(drafts[0].read(rows.split(100)))
    train, val, test = (replace(draft, mean=mean, std=std) for draft in drafts)
    return Data(f"folder:{folder}", train, val, test, classes)


def split_of(images: list[Listed], files: Files) -> Split:
    """Some of the images in `files`, in memory unless all together take too much; no statistics."""
    labels, none = torch.tensor([label for _, label in images]), torch.zeros(files.shape[1])
    left = replace(files, paths=[path for path, _ in images])
    if math.prod(files.shape) > MEMORY:
        return FileSplit(left, labels, none, none)
    return Split(left[:], labels, none, none)


def class_folders(folder: Path) -> list[str]:
    """The names of the sub-folders, sorted; ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    folders = (path for path in folder.iterdir() if path.is_dir())
    names = sorted(path.name for path in folders if not hidden(path.name))
    if not names:
        raise ValueError(f"{folder} is empty: expected one sub-folder of images for each class")
    return names


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's, or a program's own."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def find_images(folder: Path, classes: list[str], least: int = 1) -> list[Listed]:
    """Every image file below the class folders, with the number of its class.

    An image is a file whose suffix Pillow reads here. All others are passed over, and one line on
    standard error counts them. Raises ValueError that names a class with fewer than `least` images.
    """
    kinds = Image.registered_extensions().items()
    extensions = {suffix for suffix, kind in kinds if kind not in UNREADABLE}
    found: dict[str, list[Path]] = {name: [] for name in classes}
    passed: Counter[str] = Counter()
    for path in sorted(folder.rglob("*")):
        parts, suffix = path.relative_to(folder).parts, path.suffix.lower()
        if path.is_dir() and suffix not in extensions:
            continue
        if any(map(hidden, parts)):
            passed["hidden"] += 1
        elif suffix not in extensions:
            passed[suffix or "without a suffix"] += 1
        elif not path.is_file():
            passed[f"{suffix} that are no files"] += 1
        elif parts[0] not in found:
            passed["in no class"] += 1
        else:
            found[parts[0]].append(path)
    if passed and not rank():
        most = passed.most_common(5)
        most += [("others", passed.total() - sum(number for _, number in most))]
        counts = ", ".join(f"{number} {kind}" for kind, number in most if number)
        said = f"passed over {passed.total()} files that are no images of a class: {counts}"
        print(f"{folder}: {said}", file=sys.stderr)
    for name, paths in found.items():
        if not paths:
            raise ValueError(f"no images in {folder / name}")
        if len(paths) < least:
            raise ValueError(
                f"too few images in {folder / name}: {len(paths)}, where each class needs at least "
                f"{least}, one for every split"
            )
    return [(path, label) for label, paths in enumerate(found.values()) for path in paths]


def split_off(
    images: list[Listed], share: int, generator: torch.Generator
) -> tuple[list[Listed], list[Listed]]:
    """Split images at random: (the rest, one in `share` of every class but at least one)."""
    sizes = Counter(label for _, label in images)
    wanted = {label: max(1, round(size / share)) for label, size in sizes.items()}
    rest: list[Listed] = []
    chosen: list[Listed] = []
    for i in torch.randperm(len(images), generator=generator).tolist():
        label = images[i][1]
        (chosen if wanted[label] else rest).append(images[i])
        wanted[label] = max(0, wanted[label] - 1)
    return rest, chosen


def image_files(paths: list[Path], image_size: int | tuple[int, int] | None) -> Files:
    """The images at one size (without `image_size` the first one's), grey if all are grey."""
    grey, (W, H) = True, read_image(paths[0]).size
    for path in paths:
        with opened(path) as image:
            grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
        if not grey:
            break
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or (H, W)
    if min(size) < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    return Files(paths, "L" if grey else "RGB", size, resized=image_size is not None)
