"""Folders of images as data sets: split class by class, and left on disk where they are large."""

import math
import multiprocessing
import os
import signal
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from vit_tutorial import data
from vit_tutorial.data import Data, Split, pixel_statistics
from vit_tutorial.errors import shown
from vit_tutorial.lab.distributed import rank
from vit_tutorial.lab.listing import SPLITS, Listed, find_images, note
from vit_tutorial.weights.preprocessing import Preprocessing, opened, read_image

MEMORY = 4 * 2**30  # bytes; a folder whose images take more is left on disk
WORKERS = min(8, os.cpu_count() or 1)  # processes that read such a folder
LARGEST = 2**26  # pixels of an image: more would not fit into memory as a batch
SAMPLE = 4000  # training images of such a folder whose pixels give mean and std
GRACE = 30  # seconds in which such a process reads on after SIGTERM
Parts = list[list[Listed]]  # the images to train on, to validate and to test
Listing = dict[str, list[Listed]]  # the same by split, as `find_images` has them
Hashes = Mapping[Path, bytes]
Known = Mapping[str, str]  # hashes packed into text
Size = int | tuple[int, int] | None


@dataclass(frozen=True)
class Files(Dataset[Tensor]):
    """Images left on disk: each is read when it is asked for, and indexing gives a tensor's bytes.

    An image is resized as `prepared` says; where `exact`, reading raises ValueError for one of
    another size.
    """

    paths: list[Path]
    prepared: Preprocessing
    exact: bool = False

    @property
    def shape(self) -> torch.Size:
        """(M C H W), as of a tensor that holds the images."""
        return torch.Size((len(self), len(self.prepared.mean), *self.prepared.height_width))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: int | slice | Tensor) -> UInt8[Tensor, "*M C H W"]:
        """One image, (C H W), or those in `rows`, (B C H W)."""
        if isinstance(rows, int):
            return self.read(self.paths[rows])
        wanted = self.take(rows)
        images = torch.empty(wanted.shape, dtype=torch.uint8)
        for i, path in enumerate(progress(wanted.paths, "reading images")):
            images[i] = self.read(path)
        return images

    def take(self, rows: slice | Tensor) -> "Files":
        """The images in `rows`, unread."""
        return replace(self, paths=[self.paths[i] for i in torch.arange(len(self))[rows].tolist()])

    def read(self, path: Path) -> UInt8[Tensor, "C H W"]:
        """One image from its file; ValueError names a file that cannot be read."""
        if not self.exact:
            return self.prepared.bytes(path)
        (H, W), image = self.prepared.height_width, read_image(path)
        if image.size != (W, H):
            raise ValueError(
                f"{shown(path)} has {image.size} pixels, the first image has {(W, H)}: "
                "give an image size to bring all to one"
            )
        return self.prepared.bytes(image)


def squashed(channels: int, height_width: tuple[int, int]) -> Preprocessing:
    """To read whole images in so many channels at a size."""
    return Preprocessing(height_width, (0.5,) * channels, (0.5,) * channels, ())


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
            num_workers=min(can_start(WORKERS), len(parts) // 2),  # none for a single batch
            worker_init_fn=outlive_signals,
            collate_fn=as_array,
            generator=torch.Generator(),  # or it would draw from PyTorch's own, as dropout does
        )
        try:
            yield from map(torch.from_numpy, loader)
            return
        except ValueError as error:  # a worker's is its whole traceback: keep the last line
            broken = str(error).rpartition("ValueError: ")[2].strip()
            error.__traceback__ = None  # it holds the workers, which else end many seconds later
        raise ValueError(broken)


@cache
def can_start(workers: int) -> int:
    """So many, or 0, with a note, where the system has no room for the locks that they share."""
    try:
        _ = [multiprocessing.Lock() for _ in range(16 * workers)]
    except OSError as error:
        said = f"images are read by one process, for want of room in /dev/shm: {error}"
        print(f"vit-tutorial: note: {said}", file=sys.stderr)
        return 0
    return workers


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


@dataclass(frozen=True)
class FolderData(Data):
    """A folder's data set, and which files are in which split: what `load` takes as `known`.

    For "train", "val" and "test" it holds the hashes of the files' contents, packed into text.
    `listed` holds those of the places and contents of all images: what `load` takes as `only`.
    """

    files: Mapping[str, str]
    listed: Mapping[str, str]

    @property
    def copies(self) -> int:
        """How many test images are exact copies of training images."""
        seen = set(unpacked(self.files, "train"))
        return sum(one in seen for one in unpacked(self.files, "test"))


def load(
    name: str, root: str | Path | None = None, seed: int = 0, image_size: Size = None,
    known: Known | None = None, prepared: Preprocessing | None = None, at_most: int | None = None,
    apart: bool = False, only: Known | None = None,
) -> Data:  # fmt: skip
    """A data set by name: "folder:PATH", or any name that `vit_tutorial.data.load` knows.

    A folder holds one sub-folder of images per class, or a `train` folder of such, with `val` and
    `test` beside it or not (also `training`, `valid`, `validation`, `testing`, in any case). The
    splits are stratified: of every class, by `seed`, a fifth of the images are for testing unless
    there is a `test` folder, and a twelfth of the others for validation, at least one each.
    `image_size` resizes the images, which stay on disk where they would take more than MEMORY.
    Without it, images larger than `at_most`, if it is given, or of several sizes are brought to it.
    With `prepared` they are read as that says instead, in its channels and size.
    With `known`, the `files` of an earlier `FolderData`, each file is in the split where it was
    then, and whatever was neither trained on nor validated is for testing.
    With `apart`, exact copies of training images are left out of the other splits, and of those
    to validate out of those to test, unless nothing would be left.
    With `only`, the `listed` of an earlier `FolderData`, the folder is read as it was then: what is
    new since is left out, and it is said.
    Raises ValueError for an unknown name, an empty folder, an unreadable image, a class with too
    few images to be in every split, and images of `only` that are gone.
    """
    if not name.startswith("folder:"):
        if name not in data.NAMES and os.path.isdir(name):
            raise ValueError(f"unknown data set {name!r}; for a folder give folder:{name}")
        if image_size is not None and name in data.NAMES:
            said = f"image_size={image_size} is for folders; {name} has a size of its own"
            raise ValueError(said)
        return data.load(name, root, seed)
    check_size(prepared.height_width if prepared else image_size)
    with of_folder(name) as folder:
        classes, listed = find_images(folder)
        hashes = {p: hash_of(p) for p in progress(paths_of(listed.values()), "reading files")}
        if only is not None:
            classes, listed = without_new(folder, classes, listed, hashes, only)
        if known is None:
            parts = split_up(listed, seed)
            copies = copies_across(parts, hashes)
            if apart:
                parts = [[one for one in part if one[0] not in copies] or part for part in parts]
            note(folder, said_of_copies(copies, apart))
        else:
            parts = remembered(folder, listed, hashes, known)
        paths = paths_of(listed.values())
        files = Files(paths, prepared) if prepared else image_files(paths, image_size, at_most)
        drafts = [split_of(part, files) for part in parts]
        mean, std = pixel_statistics(images_of(drafts))
        train, val, test = (replace(draft, mean=mean, std=std) for draft in drafts)
        kept = {s: packed(hashes[p] for p, _ in x) for s, x in zip(SPLITS, parts, strict=True)}
        seen = {"all": packed(place(folder, path, hashes) for path in paths)}
        return FolderData(f"folder:{folder}", train, val, test, classes, kept, seen)


@contextmanager
def of_folder(name: str) -> Iterator[Path]:
    """The folder in "folder:PATH"; what the system refuses inside is a ValueError that names it."""
    if name == "folder:":
        raise ValueError("no folder is named: expected folder:PATH")
    try:
        yield Path(name.removeprefix("folder:")).expanduser()
    except (OSError, RuntimeError) as error:  # a folder that may not be read, an unknown ~user
        raise ValueError(f"cannot read {shown(name)}: {error}") from error


def paths_of(parts: Iterable[list[Listed]]) -> list[Path]:
    """The files of several splits, in order."""
    return sorted(path for part in parts for path, _ in part)


def check_size(size: Size) -> None:
    """Raise ValueError for images without pixels, and for such as no memory holds."""
    H, W = (size, size) if isinstance(size, int) else size or (1, 1)
    if min(H, W) < 1:
        raise ValueError(f"image_size must be at least 1, got {size}")
    if H * W > LARGEST:
        raise ValueError(f"expected images of at most {LARGEST:,} pixels, got {H} x {W}")


def split_of(images: list[Listed], files: Files) -> Split:
    """Some of the images in `files`, in memory unless all together take too much; no statistics."""
    labels, none = torch.tensor([label for _, label in images]).long(), torch.zeros(files.shape[1])
    left = replace(files, paths=[path for path, _ in images])
    if math.prod(files.shape) > MEMORY:
        return FileSplit(left, labels, none, none)
    return Split(left[:], labels, none, none)


def images_of(drafts: list[Split]) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """The images that give mean and std: of those left on disk some, once all have been read.

    So a file that cannot be read is named before training, not when its turn comes.
    """
    drafts = [draft for draft in drafts if len(draft)]
    some = min(100, 2**26 // math.prod(drafts[0].images.shape[1:]) or 1)  # of large images few
    parts = [torch.arange(len(draft)).split(some) for draft in drafts]
    if isinstance(drafts[0], FileSplit):
        for draft, rows in zip(drafts, parts, strict=True):
            for _ in progress(draft.read(rows), "reading every image once", len(rows)):
                pass
        parts = [torch.arange(len(drafts[0]))[:SAMPLE].split(some)]  # in random order already
    return drafts[0].read(parts[0])


def progress(steps: Any, words: str, total: int | None = None) -> Any:
    """A progress bar on a terminal, if it takes more than three seconds."""
    return tqdm(steps, words, total, delay=3, leave=False, disable=bool(rank()) or None)


def image_files(paths: list[Path], image_size: Size, at_most: int | None) -> Files:
    """The images at `image_size`, grey if all are grey.

    Without a size it is `at_most`, if an image is larger than that or of another size than the
    first, else the first one's.
    """
    grey, sizes = True, dict[tuple[int, int], Path]()
    for path in paths:
        with opened(path) as image:
            W, H = image.size
            lies = image.getexif().get(0x0112, 1) > 4  # EXIF's orientation
            sizes[(W, H) if lies else (H, W)] = path
            grey &= image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    if image_size is None and at_most and (len(sizes) > 1 or max(map(max, sizes)) > at_most):
        image_size = at_most
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return Files(paths, squashed(1 if grey else 3, size or next(iter(sizes))), exact=size is None)


# ---- which image is in which split


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


def split_up(listed: Listing, seed: int) -> Parts:
    """Train, val and test: the folder's own splits, and by `seed` those that it does not have."""
    generator, missing = torch.Generator().manual_seed(seed), {"val", "test"} - set(listed)
    rest, least = listed["train"], 1 + len(missing)
    for label, size in Counter(label for _, label in rest).items():
        if size < least:
            one = next(path for path, its in rest if its == label)
            raise ValueError(
                f"too few images in {shown(one.parent)}: {size}, where each class needs at least "
                f"{least}, one for every split"
            )
    rest, test = split_off(rest, 5, generator) if "test" in missing else (rest, listed["test"])
    rest, val = split_off(rest, 12, generator) if "val" in missing else (rest, listed["val"])
    return [rest, val, test]


def copies_across(parts: Parts, hashes: Mapping[Path, bytes]) -> dict[Path, Path]:
    """The images that are exact copies of one in an earlier split, each with that one."""
    earlier: dict[bytes, Path] = {}
    found: dict[Path, Path] = {}
    for part in parts:
        found |= {path: earlier[hashes[path]] for path, _ in part if hashes[path] in earlier}
        earlier |= {hashes[path]: path for path, _ in part}
    return found


def said_of_copies(copies: Mapping[Path, Path], left_out: bool) -> str:
    """What there is to say of copies across splits; nothing of none."""
    if not copies:
        return ""
    one, other = next(iter(copies.items()))
    so = "left out" if left_out else "figures on them say little"
    return (
        f"{len(copies)} images to validate or test are exact copies of images that training sees "
        f"before, as {shown(one)} of {shown(other)}: {so}"
    )


def remembered(folder: Path, listed: Listing, hashes: Hashes, known: Known) -> Parts:
    """Train, val and test: the files of an earlier training, and all others to test.

    One line on standard error says how many; ValueError if none is left to test.
    """
    seen, validated, tested = (set(unpacked(known, split)) for split in SPLITS)
    everything = [image for part in listed.values() for image in part]
    rest = [i for i in listed.get("test", everything) if hashes[i[0]] not in seen | validated]
    if not rest:
        raise ValueError("every image was seen in training or validation: none is left to test")
    train = [image for image in everything if hashes[image[0]] in seen]
    val = [image for image in everything if hashes[image[0]] in validated - seen]
    new = sum(hashes[path] not in tested for path, _ in rest)
    words = f"{len(train)} images were seen in training, {len(val)} in validation; {len(rest)} are "
    note(folder, f"{words}left to test, {new} of them new since then")
    return [train, val, rest]


def without_new(
    folder: Path, classes: list[str], listed: Listing, hashes: Hashes, only: Known
) -> tuple[list[str], Listing]:
    """Classes and images without what an earlier training has not seen; a line says how many.

    Raises ValueError if an image that it has seen is gone.
    """
    known, places = set(unpacked(only, "all")), {p: place(folder, p, hashes) for p in hashes}
    if lost := len(known - set(places.values())):
        raise ValueError(
            f"{lost} of the {len(known)} images that the training had in {shown(folder)} are gone, "
            "moved or changed: put them back, or begin another training"
        )
    if new := sum(one not in known for one in places.values()):
        note(folder, f"{new} images are new since the training began: left out")
    kept = {s: [i for i in part if places[i[0]] in known] for s, part in listed.items()}
    labels = sorted({label for part in kept.values() for _, label in part})
    kept = {s: [(path, labels.index(k)) for path, k in part] for s, part in kept.items()}
    return [classes[label] for label in labels], kept


def hash_of(path: Path) -> bytes:
    """Eight bytes that two files share only if their contents are the same."""
    with path.open("rb") as file:
        return file_digest(file, partial(blake2b, digest_size=8)).digest()


def place(folder: Path, path: Path, hashes: Mapping[Path, bytes]) -> bytes:
    """Eight bytes for where a file is in its folder, and what is in it."""
    return blake2b(os.fsencode(path.relative_to(folder)) + hashes[path], digest_size=8).digest()


def packed(hashes: Iterable[bytes]) -> str:
    """The hashes of files, sorted, as text: 11 characters an image."""
    return b64encode(b"".join(sorted(hashes))).decode()


def unpacked(files: Mapping[str, str], split: str) -> list[bytes]:
    """The hashes `packed` wrote for a split or "all"; ValueError for what it has not written."""
    try:
        content = b64decode(files[split], validate=True)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"the list of the files of an earlier training is damaged: {error}"
        ) from error
    return [content[i : i + 8] for i in range(0, len(content), 8)]
