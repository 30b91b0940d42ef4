"""A folder of images is a data set whose splits hold every class, in memory or on disk."""

import errno
import multiprocessing
import os
import re
import signal
import time
from dataclasses import replace
from itertools import product
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import v2

from vit_tutorial import data
from vit_tutorial.data import Split, batches
from vit_tutorial.errors import shown
from vit_tutorial.lab import folders
from vit_tutorial.lab.augment import random_photo
from vit_tutorial.lab.folders import Files, FileSplit, load
from vit_tutorial.transfer import adapt
from vit_tutorial.weights.preprocessing import Preprocessing


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def each_image(split):
    return {image.numpy().tobytes() for image in split.images}


def write_folder(root, classes=("cat", "dog"), count=6, mode="RGB", size=(6, 4)):
    """A folder of pictures, each of one colour of its own."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            level = 100 * label + 10 * i
            colour = level if mode == "L" else (level, 255 - level, i)
            Image.new(mode, size, colour).save(root / name / f"{i}.png")
    return f"folder:{root}"


def splits(loaded):
    return loaded.train, loaded.val, loaded.test


def counts(loaded):
    """How many images each split has of each class."""
    return [s.labels.bincount(minlength=len(loaded.classes)).tolist() for s in splits(loaded)]


# ---- which images are found


def test_a_folder_of_class_folders_is_a_data_set(tmp_path):
    loaded = load(write_folder(tmp_path))
    assert loaded.classes == ["cat", "dog"]
    assert loaded.train.images.shape[1:] == (3, 4, 6)  # (C H W)
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [8, 2, 2]
    for part in (loaded.train, loaded.val, loaded.test):
        for image, label in zip(part.images, part.labels, strict=True):
            red, green, i = image[:, 0, 0].tolist()
            assert red == 100 * label + 10 * i
            assert green == 255 - red


def test_grey_images_have_one_channel(tmp_path):
    loaded = load(write_folder(tmp_path, mode="L"))
    assert loaded.train.images.shape[1:] == (1, 4, 6)


def test_grey_images_among_coloured_ones_are_made_colour(tmp_path):
    write_folder(tmp_path)
    Image.new("L", (6, 4), 77).save(tmp_path / "cat" / "grey.png")
    loaded = load(f"folder:{tmp_path}")
    everything = torch.cat([loaded.train.images, loaded.val.images, loaded.test.images])
    assert (everything == 77).all(dim=1).all(dim=1).all(dim=1).sum() == 1


def test_grey_levels_of_16_bits_are_scaled_not_cut_off(tmp_path):
    write_folder(tmp_path, classes=("dark",), mode="L")
    (tmp_path / "steep").mkdir()
    for i in range(6):
        steps = np.array([[0, 256, 30000, 65535]], dtype=np.uint16).repeat(4, axis=0)
        Image.fromarray(steps).resize((6, 4), Image.Resampling.NEAREST).save(
            tmp_path / "steep" / f"{i}.png"
        )
    loaded = load(f"folder:{tmp_path}")
    steep = loaded.train.images[loaded.train.labels == 1]
    assert sorted(set(steep.flatten().tolist())) == [0, 1, 117, 255]


def test_train_and_test_folders_stay_apart(tmp_path):
    write_folder(tmp_path / "train", count=12)
    write_folder(tmp_path / "test", count=3, mode="L")
    loaded = load(f"folder:{tmp_path}")
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [22, 2, 6]
    levels = loaded.test.images[:, :, 0, 0].tolist()  # grey, in as many channels as the others
    assert levels == [[v] * 3 for v in (0, 10, 20, 100, 110, 120)]
    assert loaded.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8)), ((8, 12), (8, 12))])
def test_images_of_many_sizes_are_brought_to_one(tmp_path, size, shape):
    write_folder(tmp_path)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "cat" / "odd.png")
    assert load(f"folder:{tmp_path}", image_size=size).train.images.shape[-2:] == shape


def test_images_of_many_sizes_are_refused_if_no_size_is_given(tmp_path):
    write_folder(tmp_path)
    Image.new("RGB", (9, 7)).save(tmp_path / "cat" / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png has \(9, 7\) pixels, the first .* \(6, 4\)"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("size", [0, (4, -1)])
def test_images_without_pixels_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match=rf"at least 1, got {re.escape(str(size))}"):
        load(write_folder(tmp_path), image_size=size)


@pytest.mark.parametrize("size", [32, (32, 48)])
def test_only_a_folders_images_can_be_resized(size):
    with pytest.raises(ValueError, match=r"image_size=.*32.* is for folders; digits"):
        load("digits", image_size=size)


def test_other_names_are_those_of_the_lessons_data_sets():
    ours, theirs = load("digits", seed=3), data.load("digits", seed=3)
    assert torch.equal(ours.val.images, theirs.val.images)
    for options in ({}, {"image_size": 8}):
        with pytest.raises(
            ValueError, match="unknown data set 'folder'; did you mean 'folder:PATH"
        ):
            load("folder", **options)


def test_images_are_resized_as_by_torchvision(tmp_path):
    pixels = draw(50, 40, 3)
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.png")
    bicubic = v2.InterpolationMode.BICUBIC
    expected = v2.functional.resize(Image.fromarray(pixels), [20, 30], bicubic)
    for split in splits(load(f"folder:{tmp_path}", image_size=(20, 30))):
        assert torch.equal(split.images[0], v2.functional.pil_to_tensor(expected))


def test_hidden_folders_are_no_classes(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert load(name).classes == ["cat", "dog"]


def test_files_that_are_no_images_are_passed_over(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    assert sum(len(s) for s in (load(name).train, load(name).val, load(name).test)) == 12


def test_what_is_no_image_is_passed_over_counted_and_said_in_one_line(tmp_path, capsys):
    name = write_folder(tmp_path)
    expected = load(name)
    assert capsys.readouterr().err == ""
    picture = (tmp_path / "cat" / "0.png").read_bytes()
    for hidden in (".ipynb_checkpoints", "__MACOSX", "cat/.ipynb_checkpoints", "cat/__MACOSX/cat"):
        (tmp_path / hidden).mkdir(parents=True)
        (tmp_path / hidden / "0-checkpoint.png").write_bytes(picture)
    for file in ("cat/._0.png", ".DS_Store", "dog/Thumbs.db", "dog/desktop.ini"):
        (tmp_path / file).write_bytes(picture)
    for file in ("cat/a.heic", "cat/b.HEIC", "cat/clip.mpg", "dog/labels.h5", "dog/notes", "0.png"):
        (tmp_path / file).write_bytes(picture)
    (tmp_path / "dog" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "lost.png").symlink_to("nowhere.png")
    loaded = load(name)
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path}: passed over 17 files that are no images of a class: 8 hidden, "
        "3 .png that are no files, 2 .heic, 1 in no class, 1 .mpg, 2 others\n"
    )
    assert loaded.classes == expected.classes
    for one, other in zip(splits(loaded), splits(expected), strict=True):
        assert torch.equal(one.images, other.images)


def test_images_in_folders_within_a_class_are_its_own(tmp_path):
    name = write_folder(tmp_path / "some.folder" / ".cache")  # names above the data do not count
    for inner in ("more", "named.png"):
        (tmp_path / "some.folder" / ".cache" / "cat" / inner).mkdir()
        Image.new("RGB", (6, 4)).save(tmp_path / f"some.folder/.cache/cat/{inner}/a.PNG")
    assert sum(len(s) for s in splits(load(name))) == 14


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder: .*nowhere"):
        load(f"folder:{tmp_path / 'nowhere'}")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} is empty"):
        load(f"folder:{tmp_path}")


def test_a_class_without_images_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*emu"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_image_is_named(tmp_path, content):
    write_folder(tmp_path)
    image = tmp_path / "dog" / "3.png"
    image.write_bytes(image.read_bytes()[:40] if content is None else content)
    with pytest.raises(ValueError, match=r"cannot read the image .*dog.3\.png"):
        load(f"folder:{tmp_path}")


def test_train_and_test_of_other_classes_are_refused(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=("cat", "emu"))
    with pytest.raises(ValueError, match=r"train and .*test do not hold the same classes"):
        load(f"folder:{tmp_path}")


# ---- the splits


def test_the_seed_draws_the_test_images_of_a_folder(tmp_path):
    name = write_folder(tmp_path, count=20)
    assert torch.equal(load(name, seed=1).test.images, load(name, seed=1).test.images)
    assert not torch.equal(load(name, seed=1).test.images, load(name, seed=2).test.images)
    loaded = load(name)
    parts = [each_image(part) for part in (loaded.train, loaded.val, loaded.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)) == 40


def write_classes(root, **sizes):
    """A folder of 1 x 1 pictures: a class with so many images for each name."""
    for name, size in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(size):
            Image.new("RGB", (1, 1), (i, len(name), ord(name[0]))).save(root / name / f"{i:03}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("seed", range(8))
def test_every_split_has_images_of_a_rare_class(tmp_path, seed):
    name = write_classes(tmp_path, common=60, rare=4)
    assert counts(load(name, seed=seed)) == [[44, 2], [4, 1], [12, 1]]


def test_a_fifth_of_each_class_is_for_testing_and_a_twelfth_of_the_rest_for_validation(tmp_path):
    sizes = [3, 4, 7, 12, 13, 60, 75, 100]
    loaded = load(write_classes(tmp_path, **{f"{size:03}": size for size in sizes}))
    train, val, test = counts(loaded)
    assert [sum(of) for of in zip(train, val, test, strict=True)] == sizes
    assert test == [1, 1, 1, 2, 3, 12, 15, 20]
    assert val == [1, 1, 1, 1, 1, 4, 5, 7]


@pytest.mark.parametrize("seed", range(4))
def test_beside_a_test_folder_validation_has_a_twelfth_of_each_class(tmp_path, seed):
    write_classes(tmp_path / "train", common=60, rare=2)
    write_classes(tmp_path / "test", common=1, rare=3)
    assert counts(load(f"folder:{tmp_path}", seed=seed)) == [[55, 1], [5, 1], [1, 3]]


def test_the_training_images_are_in_random_order(tmp_path):
    labels = load(write_classes(tmp_path, a=100, b=100)).train.labels
    assert 40 < labels.diff().abs().sum() < 110  # changes of class from one image to the next


def test_the_same_seed_splits_alike_and_another_differently(tmp_path):
    name = write_classes(tmp_path, a=30, b=10)
    first, again, other = (splits(load(name, seed=seed)) for seed in (1, 1, 2))
    for one, same, another in zip(first, again, other, strict=True):
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.labels, same.labels)
        assert each_image(one) != each_image(another)


def test_splitting_leaves_the_callers_random_numbers_alone(tmp_path):
    before = torch.get_rng_state()
    load(write_classes(tmp_path, a=9, b=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("halves", [False, True])
def test_a_class_with_too_few_images_for_every_split_is_named(tmp_path, halves):
    least = 2 if halves else 3
    if halves:
        write_classes(tmp_path / "test", cat=1, dog=1)
    write_classes(tmp_path / "train" if halves else tmp_path, cat=20, dog=least - 1)
    message = rf"too few images in .*dog: {least - 1}, where each class needs at least {least}"
    with pytest.raises(ValueError, match=message):
        load(f"folder:{tmp_path}")


# ---- a folder too large for memory


@pytest.fixture
def on_disk(monkeypatch):
    """A function that loads a folder as if no image fitted into memory."""

    def load_lazily(name, workers=0, **options):
        monkeypatch.setattr(folders, "WORKERS", workers)
        with monkeypatch.context() as patch:
            patch.setattr(folders, "MEMORY", 0)
            return load(name, **options)

    return load_lazily


def write_kinds(root):
    """A folder of one drawing in kinds that look alike: clear ink on clear paper, lying, deep."""
    levels = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
    ink = Image.fromarray(255 - levels)
    clear = Image.merge("LA", (Image.new("L", ink.size), ink))
    turned = Image.fromarray(np.rot90(levels).copy())
    exif = turned.getexif()
    exif[0x0112] = 6
    kinds = {
        "grey.png": (Image.fromarray(levels), {}),
        "clear.png": (clear, {}),
        "lying.png": (turned, {"exif": exif}),
        "deep.png": (Image.fromarray(levels.astype(np.uint16) * 257), {}),
        "deep.tif": (Image.fromarray((levels.astype(np.uint16) * 257).astype(">u2")), {}),
        "float.tif": (Image.fromarray(levels.astype(np.float32) / 255), {}),
    }
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for file, (image, options) in kinds.items():
            image.save(root / name / file, **options)
    return torch.from_numpy(levels)[None], clear


@pytest.mark.parametrize("colour", [False, True])
def test_images_of_all_kinds_are_read_as_one_looks_at_them(tmp_path, on_disk, colour):
    levels, clear = write_kinds(tmp_path)
    if colour:
        clear.convert("RGBA").save(tmp_path / "cat" / "icon.png")
    for loaded in (load(f"folder:{tmp_path}"), on_disk(f"folder:{tmp_path}")):
        assert loaded.train.images.shape[1:] == ((3, 2, 3) if colour else (1, 2, 3))
        for image in (image for split in splits(loaded) for image in split.images):
            assert torch.equal(image, levels.expand_as(image))


@pytest.mark.parametrize(("lies", "stands"), [("0", "1"), ("1", "0")])  # which comes first
def test_the_size_of_a_folder_is_that_of_its_images_once_upright(tmp_path, on_disk, lies, stands):
    (tmp_path / "a").mkdir()
    for i in range(4):
        lying = Image.new("RGB", (4, 6), (i, 0, 0))
        exif = lying.getexif()
        exif[0x0112] = 8
        lying.save(tmp_path / "a" / f"{lies}{i}.jpg", exif=exif)
        lying.rotate(90, expand=True).save(tmp_path / "a" / f"{stands}{i}.png")
    for load_it in (load, on_disk):
        loaded = load_it(f"folder:{tmp_path}")
        assert loaded.train.images.shape[1:] == (3, 4, 6)
        assert loaded.train.images[:].shape[1:] == (3, 4, 6)
    Image.new("RGB", (4, 6)).save(tmp_path / "a" / "upright.png")
    with pytest.raises(ValueError, match=r"upright.png has \(4, 6\) pixels, the first .* \(6, 4\)"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("size", [None, (5, 9)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("halves", [False, True])
def test_images_left_on_disk_are_the_same_data_set(tmp_path, on_disk, halves, mode, size):
    for root in (tmp_path / "train", tmp_path / "test") if halves else (tmp_path,):
        write_folder(root, mode=mode, count=8)
    held, left = (f(f"folder:{tmp_path}", image_size=size, seed=3) for f in (load, on_disk))
    for one, other in zip((held.train, held.val, held.test), (left.train, left.val, left.test),
                          strict=True):  # fmt: skip
        assert type(one) is Split
        assert isinstance(one.images, torch.Tensor)
        assert isinstance(other, FileSplit)
        assert isinstance(other.images, Files)
        assert other.images.shape == one.images.shape
        assert torch.equal(other.images[:], one.images)
        assert torch.equal(other.labels, one.labels)
        assert torch.equal(other.mean, one.mean)
        assert torch.equal(other.std, one.std)
    assert left.classes == held.classes


def test_memory_is_measured_in_bytes(tmp_path, monkeypatch):
    name = write_folder(tmp_path)
    monkeypatch.setattr(folders, "MEMORY", 12 * 3 * 4 * 6)
    assert isinstance(load(name).train.images, torch.Tensor)
    monkeypatch.setattr(folders, "MEMORY", 12 * 3 * 4 * 6 - 1)
    assert isinstance(load(name).train.images, Files)


def test_the_processes_that_read_files_leave_signals_to_the_one_that_trains(tmp_path, on_disk):
    folder = on_disk(write_folder(tmp_path, count=15), 2)
    order = batches(folder.train, 2, None)
    first = [next(order), next(order)]  # one from each: both have begun
    readers = multiprocessing.active_children()
    assert len(readers) == 2
    for reader, number in product(readers, (signal.SIGINT, signal.SIGTERM)):
        os.kill(reader.pid, number)
    rest = [*first, *order]
    assert torch.equal(torch.cat([labels for _, labels in rest]), folder.train.labels)


def reading(begun):
    folders.outlive_signals(0)
    begun.set()
    time.sleep(60)


def test_a_process_that_reads_files_ends_some_time_after_sigterm(monkeypatch):
    monkeypatch.setattr(folders, "GRACE", 1)
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    reader = fork.Process(target=reading, args=[begun])
    reader.start()
    assert begun.wait(60)
    reader.terminate()  # as Python does when it ends
    reader.join(timeout=50)
    assert reader.exitcode == -signal.SIGALRM


def test_files_are_indexed_as_the_tensor_of_their_bytes_is(tmp_path, on_disk):
    name = write_folder(tmp_path)
    held, left = load(name).train.images, on_disk(name).train.images
    for rows in (0, -1, slice(4), slice(1, None, 3), torch.tensor([7, 2, 2]), held[:, 0, 0, 0] > 9):
        assert torch.equal(left[rows], held[rows])
    assert torch.equal(left.take(torch.tensor([5, 1]))[:], held[[5, 1]])
    assert torch.equal(torch.stack(list(left)), held)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_pass_is_the_same_for_any_number_of_workers(tmp_path, on_disk, workers):
    name = write_folder(tmp_path, count=12)
    held, left = load(name).train, on_disk(name, workers).train
    before = torch.get_rng_state()
    for drawn in (generator, lambda: None):
        passes = (batches(split, 4, drawn(), random_photo) for split in (held, left))
        for one, other in zip(*passes, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert torch.equal(torch.get_rng_state(), before)  # dropout's


def test_without_room_for_locks_one_process_reads_and_says_so(
    tmp_path, on_disk, monkeypatch, capsys
):
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr(folders.multiprocessing, "Lock", full)
    folders.can_start.cache_clear()
    name = write_folder(tmp_path, count=12)
    held, left = load(name).train, on_disk(name, 2).train
    for one, other in zip(batches(held, 4, None), batches(left, 4, None), strict=True):
        assert torch.equal(one[0], other[0])
    said = "images are read by one process, for want of room in /dev/shm: [Errno 28] No space"
    assert capsys.readouterr().err.count(said) == 1
    folders.can_start.cache_clear()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_during_training_is_named_in_one_line(tmp_path, on_disk, workers):
    split = on_disk(write_folder(tmp_path), workers).train
    split.images.paths[3].write_bytes(b"no picture")
    message = rf"^cannot read the image {split.images.paths[3]}: [^\n]*$"
    with pytest.raises(ValueError, match=message):
        list(batches(split, 2, generator()))
    assert not multiprocessing.active_children()  # the error holds none of them


def test_a_file_of_another_size_is_named_when_it_is_read(tmp_path, on_disk):
    split = on_disk(write_folder(tmp_path)).train
    Image.new("RGB", (9, 7)).save(split.images.paths[3])
    with pytest.raises(ValueError, match=rf"^{split.images.paths[3]} has \(9, 7\) pixels"):
        split.images[:]


def test_mean_and_std_of_files_are_those_of_the_first_training_images(
    tmp_path, on_disk, monkeypatch
):
    monkeypatch.setattr(folders, "SAMPLE", 3)
    loaded = on_disk(write_folder(tmp_path, count=20))
    first = loaded.train.images[:3].double() / 255
    for split in splits(loaded):
        assert_close(split.mean.double(), first.mean(dim=(0, 2, 3)))
        assert_close(split.std.double(), first.std(dim=(0, 2, 3), correction=0))


def test_images_on_disk_are_adapted_to_a_model_as_those_in_memory(tmp_path, monkeypatch):
    name, prepared = write_folder(tmp_path), Preprocessing((8, 8), (0.5,), (0.2,), ("cat", "dog"))
    in_memory = adapt(load(name, image_size=8).train, prepared)
    monkeypatch.setattr(folders, "MEMORY", 0)
    on_disk = adapt(load(name).train, prepared)
    assert isinstance(on_disk, FileSplit)
    assert (on_disk.images.shape, on_disk.mean) == (in_memory.images.shape, in_memory.mean)
    difference = on_disk.images[:].int() - in_memory.images.int()  # grey first, or size first
    assert difference.abs().max() <= 1
    with pytest.raises(ValueError, match="the model reads 2 channels, an image has 1 or 3"):
        adapt(on_disk, replace(prepared, mean=(0.5, 0.5), std=(0.2, 0.2))).images[:1]


# ---- folders that are not as one thinks


def named(split):
    """The classes of a split's images by the red of write_folder's pictures, with their number."""
    return sorted(zip(split.labels.tolist(), split.images[:, 0, 0, 0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "VALID", "Testing"),
        ("train_set", "validation", "TEST"),
    ],
)
def test_splits_are_known_by_any_of_their_names(tmp_path, train, val, test):
    for name, count in ((train, 5), (val, 2), (test, 3)):
        write_folder(tmp_path / name, count=count)
    loaded = load(f"folder:{tmp_path}")
    assert loaded.classes == ["cat", "dog"]
    for split, count in zip(splits(loaded), (5, 2, 3), strict=True):
        pictures = [(k, 100 * k + 10 * i) for k in (0, 1) for i in range(count)]
        assert named(split) == pictures


@pytest.mark.parametrize("other", [None, "valid", "test"])
def test_a_split_that_is_missing_is_taken_from_train(tmp_path, other):
    write_folder(tmp_path / "train", count=20)
    if other:
        write_folder(tmp_path / other, count=4)
    rest = {None: [[15, 15], [1, 1], [4, 4]], "valid": [[16, 16], [4, 4], [4, 4]]}
    assert counts(load(f"folder:{tmp_path}")) == rest.get(other, [[18, 18], [2, 2], [4, 4]])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (["test/cat", "val/cat"], "beside it there is no train folder"),
        (["train/cat", "test/cat", "emu"], "looks like a split, but beside it there is emu"),
        (["bus", "car", "train"], "looks like a split, but beside it there is bus, car"),
        (["train/cat", "val/cat", "Validation/cat"], "are both for the same split: keep one"),
        (["train/train/cat", "train/test/cat"], "looks like a split, not a class: rename it"),
        (["photos/cat", "photos/dog"], r"photos holds only folders \(cat, dog\)"),
        (
            ["photos/train"],
            r"photos holds only folders \(train\) .* if those are splits or classes",
        ),
        (["cat/train", "cat/test", "dog/train"], r"cat holds only folders \(test, train\)"),
        (["train/cat", "train/dog", "test/cat"], "do not hold the same classes: only one .* dog"),
        (["train/cat", "test"], "only one of them has cat; sort the images in .*test into folders"),
        (
            ["train/a/images", "train/b/images", "val/images"],
            "or give folder:.*train, to split that",
        ),
        (["train"], "train holds no folder: expected one sub-folder of images for each class"),
        ([""], "holds no folder: expected one sub-folder of images for each class"),
    ],
)
def test_a_folder_whose_classes_are_in_doubt_is_refused(tmp_path, places, message):
    for place in places:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            Image.new("L", (2, 2), i).save(tmp_path / place / f"{i}.png")
    with pytest.raises(ValueError, match=message):
        load(f"folder:{tmp_path}")


def test_runs_inside_the_data_are_no_class_and_their_pictures_no_images(tmp_path, capsys):
    name = write_folder(tmp_path)
    expected = load(name)
    for run in ("runs/one", "cat"):  # as `train` leaves them
        (tmp_path / run).mkdir(parents=True, exist_ok=True)
        (tmp_path / run / "metrics.jsonl").touch()
        for picture in ("curves.png", "attention.png"):
            Image.new("RGB", (6, 4)).save(tmp_path / run / picture)
    loaded = load(name)
    assert loaded.classes == expected.classes
    assert [*map(each_image, splits(loaded))] == [*map(each_image, splits(expected))]
    assert "4 of a run" in capsys.readouterr().err


def test_linked_folders_are_read_and_circles_end(tmp_path, capsys):
    write_folder(tmp_path / "data", count=4)
    write_folder(tmp_path / "elsewhere", classes=("more", "emu"), count=3)
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "data" / "emu").symlink_to(tmp_path / "elsewhere" / "emu")
    (tmp_path / "data" / "cat" / "round").symlink_to(tmp_path / "data")
    loaded = load(f"folder:{tmp_path / 'data'}")
    assert loaded.classes == ["cat", "dog", "emu"]
    assert [sum(of) for of in zip(*counts(loaded), strict=True)] == [7, 4, 3]


def test_nothing_is_waited_for(tmp_path, capsys):
    name = write_folder(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dog" / "null").symlink_to("/dev/null")
    assert sum(map(len, splits(load(name)))) == 12
    assert "2 .png that are no files, 1 without a suffix" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["folder:", "folder:~nobody-of-this-name/x"])
def test_a_folder_without_a_name_or_an_owner_is_refused(name):
    with pytest.raises(ValueError, match=r"no folder is named|cannot read folder:~nobody"):
        load(name)


@pytest.mark.parametrize("apart", [False, True])
def test_exact_copies_across_splits_are_said_and_left_out_if_asked(tmp_path, capsys, apart):
    write_folder(tmp_path / "train", count=4)
    write_folder(tmp_path / "test", count=6)
    loaded = load(f"folder:{tmp_path}", apart=apart)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path}: 8 images to validate or test are exact copies of images that" in said
    assert re.search(r"as \S*test.cat.\d.png of \S*train.cat.\d.png: (figures|left out)", said)
    assert counts(loaded) == [[3, 3], [1, 1], [2, 2] if apart else [6, 6]]
    again = load(f"folder:{tmp_path}", known=loaded.files)
    assert counts(again)[2] == [2, 2]
    assert loaded.copies == (0 if apart else 6)


def test_a_split_of_nothing_but_copies_is_kept(tmp_path):
    write_folder(tmp_path / "train", count=4)
    write_folder(tmp_path / "test", count=3)
    assert counts(load(f"folder:{tmp_path}", apart=True))[2] == [3, 3]


def test_images_larger_than_asked_or_of_several_sizes_are_brought_to_one_size(tmp_path):
    name = write_folder(tmp_path, size=(6, 4))
    turned = Image.new("RGB", (4, 6))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "cat" / "turned.jpg", exif=exif)
    for at_most, shape in ((6, (4, 6)), (5, (5, 5)), (None, (4, 6))):
        assert load(name, at_most=at_most).train.images.shape[2:] == shape
    Image.new("RGB", (3, 3)).save(tmp_path / "cat" / "small.png")
    assert load(name, at_most=6).train.images.shape[2:] == (6, 6)


def test_images_that_no_memory_holds_are_refused_before_any_is_read(tmp_path, monkeypatch):
    name = write_folder(tmp_path)
    monkeypatch.setattr(folders, "read_image", None)
    with pytest.raises(ValueError, match="at most 67,108,864 pixels, got 40000 x 40000"):
        load(name, image_size=40000)


def test_a_file_on_disk_that_cannot_be_read_is_named_before_training(tmp_path, on_disk):
    name = write_folder(tmp_path)
    torn = on_disk(name).test.images.paths[0]
    torn.write_bytes(torn.read_bytes()[:-20])  # the header is whole
    with pytest.raises(ValueError, match=f"cannot read the image {torn}"):
        on_disk(name)


def test_images_may_lie_in_a_folder_of_that_name_as_in_tiny_imagenet(tmp_path):
    for name in ("n01443537", "n01629819"):
        write_folder(tmp_path / name, classes=["images"], count=20)
        (tmp_path / name / f"{name}_boxes.txt").touch()
    loaded = load(f"folder:{tmp_path}")
    assert loaded.classes == ["n01443537", "n01629819"]
    assert counts(loaded) == [[15, 15], [1, 1], [4, 4]]


# ---- a folder that grows


@pytest.mark.parametrize("lazy", [False, True])
def test_a_grown_folder_is_split_as_it_was_with_all_that_is_new_to_test(
    tmp_path, capsys, on_disk, lazy
):
    name, read = write_folder(tmp_path, count=20), on_disk if lazy else load
    first = load(name, seed=1)
    (tmp_path / "dog" / "3.png").rename(tmp_path / "dog" / "renamed.png")
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "cat" / "new.png")
    capsys.readouterr()
    again = read(name, seed=7, known=first.files)
    said = f"{len(first.train)} images were seen in training, 2 in validation; 9 are left to test"
    assert capsys.readouterr().err == f"{tmp_path}: {said}, 1 of them new since then\n"
    for one, other in zip(splits(first)[:2], splits(again)[:2], strict=True):
        assert each_image(one) == each_image(other)
    (new,) = each_image(again.test) - each_image(first.test)
    assert set(new) == {1, 2, 3}
    assert torch.equal(again.test.mean, again.train.mean)


def test_what_is_new_since_a_training_began_is_left_out(tmp_path, capsys, on_disk):
    first = load(write_folder(tmp_path, count=20), seed=1)
    Image.new("RGB", (60, 40), (1, 2, 3)).save(tmp_path / "dog" / "10a.png")
    write_folder(tmp_path, classes=["cow"])  # between the two
    capsys.readouterr()
    for read in (load, on_disk):
        again = read(f"folder:{tmp_path}", seed=1, only=first.listed)
        assert capsys.readouterr().err == (
            f"{tmp_path}: 7 images are new since the training began: left out\n"
        )
        assert (again.classes, again.listed) == (first.classes, first.listed)
        for one, other in zip(splits(first), splits(again), strict=True):
            assert torch.equal(one.images, other.images[:])
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.mean, other.mean)
    (tmp_path / "dog" / "3.png").unlink()
    with pytest.raises(ValueError, match="1 of the 40 images that the training had"):
        load(f"folder:{tmp_path}", seed=1, only=first.listed)


def test_what_was_moved_from_train_to_test_is_no_test_image(tmp_path):
    for half in ("train", "test"):
        write_folder(tmp_path / half, count=3 if half == "test" else 8, size=(len(half), 2))
    name = f"folder:{tmp_path}"
    first = load(name, image_size=4)
    for file in (tmp_path / "train" / "cat").iterdir():
        file.rename(tmp_path / "test" / "cat" / f"moved{file.name}")
    Image.new("RGB", (5, 2)).save(tmp_path / "train" / "cat" / "new.png")
    again = load(name, image_size=4, known=first.files)
    assert [len(s) for s in splits(again)] == [len(s) for s in splits(first)]
    assert torch.equal(again.test.images, first.test.images)


def test_another_folder_is_new_altogether_and_one_without_news_is_refused(tmp_path):
    first = load(write_folder(tmp_path / "one"))
    other = load(write_folder(tmp_path / "two", size=(3, 3)), known=first.files)
    assert [len(s) for s in splits(other)] == [0, 0, 12]
    for path in (tmp_path / "one").rglob("*.png"):
        if folders.hash_of(path) in folders.unpacked(first.files, "test"):
            path.unlink()
    with pytest.raises(ValueError, match="every image was seen in training or validation"):
        load(f"folder:{tmp_path / 'one'}", known=first.files)
    for damaged in ({}, *({"train": x, "val": "", "test": ""} for x in "a!")):
        with pytest.raises(ValueError, match="files of an earlier training is damaged"):
            load(f"folder:{tmp_path / 'one'}", known=damaged)


# ---- names from outside


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("plain name.png", "plain name.png"),
        ("猫 و می\u200cخواهم ñ", "猫 و می\u200cخواهم ñ"),
        ("a\x1b[31mb\r\nerror: \x9b", r"a\x1b[31mb\r\nerror: \x9b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800\u202egnp.exe\u2028", r"\ud800\u202egnp.exe\u2028"),
        ("a" * 9 + "b" * 9, "a" * 5 + "…" + "b" * 5),
    ],
)
def test_a_name_from_outside_is_shown_without_doing_anything(name, seen):
    assert shown(name, limit=300 if len(name) != 18 else 10) == seen
