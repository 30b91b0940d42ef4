"""What lies in a folder of images: which files are the images of which class and split."""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vit_tutorial.errors import shown
from vit_tutorial.lab.distributed import rank
from vit_tutorial.weights.files import listed

UNREADABLE = {"BUFR", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}  # Pillow knows but the names
Listed = tuple[Path, int]  # an image file and the number of its class
RUN = "metrics.jsonl"  # the file that every folder of a run has, from its start
PICTURES = ("curves.png", "attention.png")  # and what `train` draws there
ALSO = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
SPLITS = ("train", "val", "test")


def note(folder: Path, words: str) -> None:
    """A line about a folder on standard error, if there is anything to say."""
    if words and not rank():
        print(f"{shown(folder)}: {words}", file=sys.stderr)


def find_images(folder: Path) -> tuple[list[str], dict[str, list[Listed]]]:
    """The classes, and for each split that the folder has its images: {"train": [(path, 0), ...]}.

    A folder of classes has one split, "train". One line on standard error counts the files that
    were passed over. Raises ValueError for what is no such folder, with what is wrong.
    """
    if not folder.is_dir():
        raise ValueError(f"no such folder: {shown(folder)}")
    paths, passed = images_below(folder)
    homes = split_folders(folder, paths)
    found: dict[str, dict[str, list[Path]]] = {
        split: {name: [] for name in class_folders(home, split)} for split, home in homes.items()
    }
    for path in paths:
        split = next(split for split, home in homes.items() if path.is_relative_to(home))
        name, *inner = path.relative_to(homes[split]).parts
        if inner:
            found[split][name].append(path)
        else:
            passed["in no class"] += 1
    say_what_is_passed_over(folder, passed)
    images: dict[str, list[Listed]] = {}
    classes: list[str] = []
    for split, home in homes.items():
        names = [c for c, images in found[split].items() if is_class(home / c, images)]
        classes = classes or names  # of "train", the first
        if names != classes:
            raise ValueError(
                f"{shown(homes['train'])} and {shown(home)} do not hold the same classes: only one "
                f"of them has {listed({*names} ^ {*classes})}; sort the images in {shown(home)} "
                f"into folders of these, or give folder:{shown(homes['train'])}, to split that"
            )
        images[split] = [(path, k) for k, c in enumerate(names) for path in found[split][c]]
    if not classes:
        raise ValueError(f"{shown(folder)} holds no class: expected one sub-folder for each")
    return classes, images


def say_what_is_passed_over(folder: Path, passed: Counter[str]) -> None:
    """One line that counts files by their kind, the five commonest kinds first; none for none."""
    most = passed.most_common(5)
    most += [("others", passed.total() - sum(number for _, number in most))]
    counts = ", ".join(f"{number} {shown(kind, 40)}" for kind, number in most if number)
    if counts:
        note(folder, f"passed over {passed.total()} files that are no images of a class: {counts}")


def images_below(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The image files below a folder, in order, and how many others there are of each kind.

    An image is a file whose suffix Pillow reads here, and not a picture of a run of ours.
    """
    kinds = Image.registered_extensions().items()
    extensions = {suffix for suffix, kind in kinds if kind not in UNREADABLE}
    found, passed, paths = [], Counter[str](), list(walk(folder, ()))
    runs = {path.parent for path in paths if path.name == RUN}
    for path in paths:
        suffix = path.suffix.lower()
        if path.is_dir() and suffix not in extensions:
            continue
        if any(map(hidden, path.relative_to(folder).parts)):
            passed["hidden"] += 1
        elif path.name in PICTURES and path.parent in runs:
            passed["of a run"] += 1
        elif suffix not in extensions:
            passed[suffix or "without a suffix"] += 1
        elif not path.is_file():
            passed[f"{suffix} that are no files"] += 1
        elif path.parent == folder:
            passed["in no class"] += 1
        else:
            found.append(path)
    return found, passed


def walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Everything below a folder, in order, through links too, unless they lead back up."""
    here = folder.resolve()
    for path in sorted(folder.iterdir()) if here not in above else ():
        yield path
        if path.is_dir():
            yield from walk(path, (*above, here))


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's, or a program's own."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def sub_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not hidden(path.name))


def split_folders(folder: Path, images: list[Path]) -> dict[str, Path]:
    """The folder of each split; {"train": folder} where it holds the classes at once."""
    found: dict[str, Path] = {}
    for name in sub_folders(folder):
        split = split_name(name)
        if split in found:
            raise ValueError(f"{found[split]} and {name} are both for the same split: keep one")
        if split is not None:
            found[split] = folder / name
    tops = {path.relative_to(folder).parts[0] for path in images}
    others = tops - {path.name for path in found.values()}
    if found and ("train" not in found or others):
        named, beside = (", ".join(sorted(map(shown, x))) for x in (found.values(), others))
        raise ValueError(
            f"{named} looks like a split, but beside it there is {beside or 'no train folder'}: "
            "expected train, val and test, and no class of such a name"
        )
    return {split: found[split] for split in SPLITS if split in found} or {"train": folder}


def split_name(name: str) -> str | None:
    """Which split a folder's name stands for: "Validation" and "valid_images" for "val"."""
    plain = re.sub(r"[ _-]?(set|data|images)$", "", name.lower())
    plain = ALSO.get(plain, plain)
    return plain if plain in SPLITS else None


def class_folders(folder: Path, split: str) -> list[str]:
    """The names of the class folders; ValueError if there are none to train on."""
    names = sub_folders(folder)
    if split == "train" and not names:
        what = "holds no folder" if any(folder.iterdir()) else "is empty"
        raise ValueError(
            f"{shown(folder)} {what}: expected one sub-folder of images for each class"
        )
    return names


def is_class(folder: Path, images: list[Path]) -> bool:
    """True; False for a folder that holds runs of ours; ValueError for one that is no class."""
    if split_name(folder.name):
        raise ValueError(f"{shown(folder)} looks like a split, not a class: rename it")
    if not images and any(path.name == RUN for path in walk(folder, ())):
        return False
    if not images:
        raise ValueError(f"no images in {shown(folder)}")
    if not any(path.parent in (folder, folder / "images") for path in images):  # tiny-imagenet's
        inner = ", ".join(map(shown, sub_folders(folder)[:3]))
        raise ValueError(
            f"{shown(folder)} holds only folders ({inner}) and no image of its own: if those are "
            f"splits or classes, give folder:{shown(folder)}, else move the images up"
        )
    return True
