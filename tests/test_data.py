"""Data sets are held whole, split without overlap, and normalised by their own statistics."""

import multiprocessing
import os
import pickle
import re
import signal
import struct
import time
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.testing import assert_close

from vit_tutorial import data
from vit_tutorial.data import (
    Data,
    Files,
    Split,
    as_bytes,
    batches,
    change_colours,
    cutmix,
    data_root,
    default_dataset,
    digits,
    load,
    pixel_statistics,
    random_affine,
    random_elastic,
    random_photo,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def split_of(images, labels=None):
    labels = torch.arange(len(images)) if labels is None else labels
    return Split(images, labels, torch.zeros(images.shape[1]), torch.ones(images.shape[1]))


def each_image(split):
    return {image.numpy().tobytes() for image in split.images}


def write_mnist(root, name="MNIST", train=240, test=40, top=10):
    """MNIST's four files, as its authors lay them out, with random pixels."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for half, count in (("train", train), ("t10k", test)):
        images, labels = draw(count, 28, 28), np.arange(count, dtype=np.uint8) % top
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return folder


def write_folder(root, classes=("cat", "dog"), count=6, mode="RGB", size=(6, 4)):
    """A folder of pictures, each of one colour of its own."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            level = 100 * label + 10 * i
            colour = level if mode == "L" else (level, 255 - level, i)
            Image.new(mode, size, colour).save(root / name / f"{i}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def embedded():
    return load("digits")


# ---- the embedded digits


def test_digits_are_scikit_learns_in_the_same_order():
    images, labels = digits()
    pixels, expected = load_digits(return_X_y=True)
    assert images.shape == (1797, 1, 28, 28)
    assert labels.tolist() == expected.tolist()
    ink = images.double().sum(dim=(1, 2, 3)).numpy() / 255
    assert np.corrcoef(ink, pixels.sum(axis=1))[0, 1] > 0.99


def test_digits_are_laid_out_as_mnist_is():
    images = digits()[0][:, 0].double()
    places = torch.arange(28.0).double()
    for axis in (1, 2):
        profile = images.sum(dim=3 - axis)
        centre = (profile @ places) / profile.sum(dim=1)
        assert (centre - 13.5).abs().max() <= 1  # the centre of mass is in the middle, to a pixel
        first = (profile > 0).double().argmax(dim=1)
        last = 27 - (profile.flip(1) > 0).double().argmax(dim=1)
        assert (last - first < 20).all()  # and the ink in a box of 20 x 20


def test_digits_fall_into_three_parts_that_share_no_image(embedded):
    assert [len(s) for s in (embedded.train, embedded.val, embedded.test)] == [1318, 119, 360]
    assert embedded.classes == list("0123456789")
    drawn = [each_image(part) for part in (embedded.train, embedded.val, embedded.test)]
    whole = each_image(split_of(digits()[0]))
    assert drawn[0] | drawn[1] | drawn[2] == whole
    assert sum(map(len, drawn)) == len(whole)


def test_an_image_keeps_its_label(embedded):
    images, labels = digits()
    of = {image.numpy().tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in (embedded.train, embedded.val, embedded.test):
        for image, label in zip(part.images, part.labels, strict=True):
            assert of[image.numpy().tobytes()] == label


def test_the_seed_picks_the_validation_images_and_nothing_else(embedded):
    again, other = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(again.val.images, embedded.val.images)
    assert torch.equal(again.train.images, embedded.train.images)
    assert not torch.equal(other.val.images, embedded.val.images)
    assert torch.equal(other.test.images, embedded.test.images)
    assert torch.equal(other.test.labels, embedded.test.labels)


def test_mean_and_std_are_those_of_the_training_pixels(embedded):
    pixels = embedded.train.images.numpy().astype(np.float64) / 255
    for part in (embedded.train, embedded.val, embedded.test):
        assert part.mean.tolist() == pytest.approx([pixels.mean()], rel=1e-6)
        assert part.std.tolist() == pytest.approx([pixels.std()], rel=1e-6)


def test_normalised_training_images_have_mean_0_and_standard_deviation_1(embedded):
    images = torch.cat([images for images, _ in batches(embedded.train, 500, None)])
    assert_close(images.mean().item(), 0.0, atol=1e-5, rtol=0)
    assert_close(images.std(correction=0).item(), 1.0, atol=1e-5, rtol=0)


def test_loading_leaves_the_callers_random_numbers_alone():
    before = torch.get_rng_state()
    load("digits", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


# ---- data sets in files


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnists_files_are_read_and_split(tmp_path, name, folder):
    write_mnist(tmp_path, folder)
    loaded = load(name, root=tmp_path)
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [220, 20, 40]
    assert torch.equal(loaded.test.images[:, 0], torch.from_numpy(draw(40, 28, 28)))
    assert loaded.test.labels.tolist() == [i % 10 for i in range(40)]
    drawn = each_image(loaded.train) | each_image(loaded.val)
    assert drawn == {image.tobytes() for image in draw(240, 28, 28)}
    assert loaded.classes[0] == ("0" if name == "mnist" else "T-shirt/top")
    assert len(loaded.classes) == 10


def test_of_60000_training_images_5000_are_for_validation():
    images = torch.zeros(60000, 1, 1, 1, dtype=torch.uint8)
    labels = torch.arange(60000) % 10
    test = (images[:10], labels[:10])
    parts = data.split_off_validation("mnist", (images, labels), test, list("0123456789"), 0)
    assert [len(s) for s in (parts.train, parts.val, parts.test)] == [55000, 5000, 10]


def test_cifars_files_are_read_with_colour_first_and_statistics_per_channel(tmp_path, monkeypatch):
    folder = tmp_path / data.datasets.CIFAR10.base_folder
    folder.mkdir()
    pixels = draw(240, 3 * 32 * 32)
    pixels[:, 1024:2048] //= 4  # dark greens
    for name, part in (("train", pixels[:200]), ("test", pixels[200:])):
        record = {"data": part, "labels": [i % 10 for i in range(len(part))]}
        (folder / name).write_bytes(pickle.dumps(record))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    meta = {"filename": "meta", "key": "label_names", "md5": None}
    for attribute, value in (
        ("train_list", [["train", None]]), ("test_list", [["test", None]]), ("meta", meta)
    ):  # fmt: skip
        monkeypatch.setattr(data.datasets.CIFAR10, attribute, value)
    loaded = load("cifar10", root=tmp_path)
    assert loaded.train.images.shape == (184, 3, 32, 32)
    assert torch.equal(loaded.test.images, torch.from_numpy(pixels[200:]).view(-1, 3, 32, 32))
    assert loaded.classes == [*"abcdefghij"]
    by_numpy = loaded.train.images.numpy().astype(np.float64) / 255
    assert loaded.train.mean.tolist() == pytest.approx(by_numpy.mean(axis=(0, 2, 3)), rel=1e-6)
    assert loaded.train.std.tolist() == pytest.approx(by_numpy.std(axis=(0, 2, 3)), rel=1e-6)


def test_bytes_stay_bytes_with_channels_in_front():
    grey, colour = torch.from_numpy(draw(2, 4, 5)), draw(2, 4, 5, 3)
    assert torch.equal(as_bytes(grey)[:, 0], grey)
    for c in range(3):
        assert torch.equal(as_bytes(colour)[:, c], torch.from_numpy(colour[..., c]))


def test_mnist_that_is_neither_here_nor_to_be_fetched_is_refused_with_a_way_out(tmp_path, capsys):
    with pytest.raises(
        ValueError, match=r"mnist is neither in .* nor could it be fetched"
    ) as error:
        load("mnist", root=tmp_path)
    for help_ in (str(tmp_path), "VIT_TUTORIAL_DATA", 'load("digits")'):
        assert help_ in str(error.value)
    assert f"fetching MNIST into {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [b"", b"hello", b"\0\0\x08\x03", None])
def test_damaged_files_are_refused_with_the_folder(tmp_path, bad):
    file = write_mnist(tmp_path) / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100] if bad is None else bad)
    with pytest.raises(ValueError, match=f"mnist is neither in {tmp_path}"):
        load("mnist", root=tmp_path)


def test_waiting_for_the_network_has_an_end_and_the_callers_timeout_comes_back(tmp_path):
    patience = []

    class Slow(data.datasets.VisionDataset):
        def __init__(self, root, train, download):
            patience.append(data.socket.getdefaulttimeout())
            raise RuntimeError("not found")

    with pytest.raises(RuntimeError):
        data.fetch(Slow, tmp_path, train=True)
    assert patience == [None, 10]
    assert data.socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mnsit", "'mnist'"), ("fashion-mnist", "'fashion_mnist'"), ("CIFAR10", "'cifar10'"),
     ("folder", "'folder:PATH'"), ("folders", "'folder:PATH'")],
)  # fmt: skip
def test_an_unknown_data_set_is_refused_with_the_nearest_names(name, nearest):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'; did you mean .*{nearest}"):
        load(name)


@pytest.mark.parametrize("size", [32, (32, 48)])
def test_only_a_folders_images_can_be_resized(size):
    with pytest.raises(ValueError, match=r"image_size=.*32.* is for folders; digits"):
        load("digits", image_size=size)


def test_data_lie_where_the_caller_says_else_the_environment_else_in_the_cache(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path / "environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root(tmp_path) == tmp_path
    assert data_root() == tmp_path / "environment"
    monkeypatch.delenv("VIT_TUTORIAL_DATA")
    assert data_root() == tmp_path / "cache" / "vit_tutorial"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root().parts[-2:] == (".cache", "vit_tutorial")
    assert data_root().is_absolute()


# ---- which data set stands in for none


def test_with_the_quick_budget_the_default_is_the_digits(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.setenv("VIT_TUTORIAL_BUDGET", "quick")
    assert default_dataset() == "digits"


def test_where_mnist_is_at_hand_it_is_the_default(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path)
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("VIT_TUTORIAL_BUDGET")
    assert default_dataset() == "mnist"
    assert capsys.readouterr().out == ""


def test_without_mnist_and_network_the_default_is_the_digits_and_says_so(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("VIT_TUTORIAL_BUDGET")
    assert default_dataset() == "digits"
    assert "1,797 digits stand in" in capsys.readouterr().out


def test_real_mnist_is_split_as_the_book_says(real_data):
    loaded = load("mnist")
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [55000, 5000, 10000]
    assert loaded.train.mean.item() == pytest.approx(0.1307, abs=1e-3)  # as everyone finds
    assert loaded.train.std.item() == pytest.approx(0.3081, abs=1e-3)


# ---- a user's own folder


def test_a_folder_of_class_folders_is_a_data_set(tmp_path):
    loaded = load(write_folder(tmp_path))
    assert loaded.classes == ["cat", "dog"]
    assert loaded.train.images.shape[1:] == (3, 4, 6)  # (C H W)
    assert [len(s) for s in (loaded.train, loaded.val, loaded.test)] == [9, 1, 2]
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


def test_the_seed_draws_the_test_images_of_a_folder(tmp_path):
    name = write_folder(tmp_path, count=20)
    assert torch.equal(load(name, seed=1).test.images, load(name, seed=1).test.images)
    assert not torch.equal(load(name, seed=1).test.images, load(name, seed=2).test.images)
    loaded = load(name)
    parts = [each_image(part) for part in (loaded.train, loaded.val, loaded.test)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)) == 40


def test_hidden_folders_are_no_classes(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert load(name).classes == ["cat", "dog"]


def test_files_that_are_no_images_are_passed_over(tmp_path):
    name = write_folder(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    assert sum(len(s) for s in (load(name).train, load(name).val, load(name).test)) == 12


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


def test_too_few_images_to_split_are_refused(tmp_path):
    name = write_folder(tmp_path, classes=("cat",), count=2)
    with pytest.raises(ValueError, match="2 training and 0 test images: too few"):
        load(name)


@pytest.mark.parametrize(("labels", "range_"), [([0, 5], r"0\.\.5"), ([-1, 1], r"-1\.\.1")])
def test_labels_without_a_class_are_refused(labels, range_):
    part = split_of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor(labels))
    message = rf"labels must lie in 0\.\.1 for 2 classes, got {range_}"
    good = split_of(part.images, torch.tensor([0, 1]))
    for parts in ((part, good, good), (good, part, good), (good, good, part)):
        with pytest.raises(ValueError, match=message):
            Data("wrong", *parts, classes=["a", "b"])


# ---- a folder too large for memory


@pytest.fixture
def on_disk(monkeypatch):
    """A function that loads a folder as if no image fitted into memory."""

    def load_lazily(name, workers=0, **options):
        monkeypatch.setattr(data, "WORKERS", workers)
        with monkeypatch.context() as patch:
            patch.setattr(data, "MEMORY", 0)
            return load(name, **options)

    return load_lazily


@pytest.mark.parametrize("size", [None, (5, 9)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("halves", [False, True])
def test_images_left_on_disk_are_the_same_data_set(tmp_path, on_disk, halves, mode, size):
    for root in (tmp_path / "train", tmp_path / "test") if halves else (tmp_path,):
        write_folder(root, mode=mode, count=8)
    held, left = (f(f"folder:{tmp_path}", image_size=size, seed=3) for f in (load, on_disk))
    for one, other in zip((held.train, held.val, held.test), (left.train, left.val, left.test),
                          strict=True):  # fmt: skip
        assert isinstance(one.images, torch.Tensor)
        assert isinstance(other.images, Files)
        assert other.images.shape == one.images.shape
        assert torch.equal(other.images[:], one.images)
        assert torch.equal(other.labels, one.labels)
        assert torch.equal(other.mean, one.mean)
        assert torch.equal(other.std, one.std)
    assert left.classes == held.classes


def test_memory_is_measured_in_bytes(tmp_path, monkeypatch):
    name = write_folder(tmp_path)
    monkeypatch.setattr(data, "MEMORY", 12 * 3 * 4 * 6)
    assert isinstance(load(name).train.images, torch.Tensor)
    monkeypatch.setattr(data, "MEMORY", 12 * 3 * 4 * 6 - 1)
    assert isinstance(load(name).train.images, Files)


def test_the_processes_that_read_files_leave_signals_to_the_one_that_trains(tmp_path, on_disk):
    folder = on_disk(write_folder(tmp_path, count=15), 2)
    order = data.batches(folder.train, 2, None)
    first = [next(order), next(order)]  # one from each: both have begun
    readers = multiprocessing.active_children()
    assert len(readers) == 2
    for reader, number in product(readers, (signal.SIGINT, signal.SIGTERM)):
        os.kill(reader.pid, number)
    rest = [*first, *order]
    assert torch.equal(torch.cat([labels for _, labels in rest]), folder.train.labels)


def reading(begun):
    data.outlive_signals(0)
    begun.set()
    time.sleep(60)


def test_a_process_that_reads_files_ends_some_time_after_sigterm(monkeypatch):
    monkeypatch.setattr(data, "GRACE", 1)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_during_training_is_named_in_one_line(tmp_path, on_disk, workers):
    split = on_disk(write_folder(tmp_path), workers).train
    split.images.paths[3].write_bytes(b"no picture")
    message = rf"^cannot read the image {split.images.paths[3]}: [^\n]*$"
    with pytest.raises(ValueError, match=message):
        list(batches(split, 2, generator()))


def test_a_file_of_another_size_is_named_when_it_is_read(tmp_path, on_disk):
    split = on_disk(write_folder(tmp_path)).train
    Image.new("RGB", (9, 7)).save(split.images.paths[3])
    with pytest.raises(ValueError, match=rf"^{split.images.paths[3]} has \(9, 7\) pixels"):
        split.images[:]


def test_mean_and_std_of_files_are_those_of_the_first_4000(tmp_path):
    Image.new("L", (1, 1), 51).save(tmp_path / "one.png")
    paths = [tmp_path / "one.png"] * 4000 + [tmp_path / "missing.png"]
    mean, std = pixel_statistics(Files(paths, "L", (1, 1), False), torch.arange(4001))
    assert_close(mean, torch.tensor([0.2]))
    assert_close(std, torch.tensor([1e-6]))


# ---- batches


@pytest.fixture
def numbered():
    """Ten images whose pixels are their number."""
    return split_of(torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 4, 4))


def test_without_a_generator_every_image_comes_once_in_order(numbered):
    seen = list(batches(numbered, 4, None))
    assert [len(labels) for _, labels in seen] == [4, 4, 2]
    assert torch.cat([labels for _, labels in seen]).tolist() == list(range(10))


def test_a_shuffled_pass_sees_no_image_twice_and_leaves_out_what_fills_no_batch(numbered):
    seen = [labels.tolist() for _, labels in batches(numbered, 4, generator())]
    assert [len(labels) for labels in seen] == [4, 4]
    assert len({label for labels in seen for label in labels}) == 8


def test_the_same_seed_shuffles_alike_and_the_next_pass_differently(numbered):
    drawn = generator()
    first, second = ([y.tolist() for _, y in batches(numbered, 5, drawn)] for _ in range(2))
    assert [y.tolist() for _, y in batches(numbered, 5, generator())] == first
    assert first != second


def test_images_and_labels_are_shuffled_together(numbered):
    for images, labels in batches(numbered, 4, generator()):
        assert_close(images[:, 0, 0, 0] * 255, labels.float())


def test_pixels_are_scaled_to_0_to_1_then_normalised_channel_by_channel(numbered):
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([0.5, 2.0])
    split = Split(numbered.images, numbered.labels, mean, std)
    images, _ = next(batches(split, 10, None))
    for n in range(10):
        for c in range(2):
            by_hand = (n / 255 - float(mean[c])) / float(std[c])
            assert_close(images[n, c], torch.full((4, 4), by_hand))


def test_augmentation_sees_pixels_in_0_to_1_before_they_are_normalised(numbered):
    split = Split(numbered.images, numbered.labels, torch.ones(2), torch.full((2,), 0.5))
    seen = []

    def augment(images, generator):
        seen.append(images)
        return torch.zeros_like(images)

    for images, labels in batches(split, 5, generator(), augment):
        assert_close(seen[-1][:, 0, 0, 0] * 255, labels.float())
        assert_close(images, torch.full_like(images, -2.0))


def test_what_is_not_shuffled_is_not_augmented_either(numbered):
    plain = torch.cat([x for x, _ in batches(numbered, 4, None)])
    given = torch.cat([x for x, _ in batches(numbered, 4, None, augment=random_affine)])
    assert torch.equal(plain, given)


def test_a_batch_larger_than_the_data_is_refused_with_both_numbers(numbered):
    with pytest.raises(ValueError, match="10 images do not fill a batch of 11"):
        next(batches(numbered, 11, generator()))


# ---- augmentation


@pytest.mark.parametrize("augment", [random_affine, random_elastic, random_photo])
def test_augmentation_draws_from_the_generator_and_nowhere_else(augment):
    images, before = torch.rand(8, 1, 12, 12), torch.get_rng_state()
    same, again = (augment(images, generator(1)) for _ in range(2))
    assert torch.equal(same, again)
    assert not torch.equal(same, augment(images, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", [random_affine, random_elastic, random_photo])
def test_every_image_of_a_batch_is_changed_by_its_own_amount(augment):
    image = torch.rand(1, 3, 15, 15)
    changed = augment(image.repeat(16, 1, 1, 1), generator())
    assert len(changed.flatten(1).unique(dim=0)) == 16


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_image_moves_by_at_most_7_percent_of_its_side_times_the_strength(strength):
    size = 101
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    blob = torch.exp(-((y - 50) ** 2 + (x - 50) ** 2) / 18.0)[None, None]
    moved = random_affine(blob.repeat(500, 1, 1, 1), generator(), strength)[:, 0]
    mass = moved.sum(dim=(1, 2))
    down = (moved.sum(dim=2) @ torch.arange(101.0)) / mass - 50
    right = (moved.sum(dim=1) @ torch.arange(101.0)) / mass - 50
    # the shift is made before the image is scaled by up to 12 %, turned and slanted
    for way in (down, right):
        assert 5.5 < way.abs().max() / strength < 7 * 1.12 / 0.88 * 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("augment", [random_affine, random_elastic, random_photo])
def test_at_strength_0_every_image_stays_as_it_is(augment, dtype):
    images = torch.rand(4, 3, 12, 16, dtype=dtype)
    assert_close(augment(images, generator(), 0.0), images, atol=1e-5, rtol=1e-5)


def test_an_elastic_change_bends_what_an_affine_one_leaves_straight():
    line = torch.zeros(100, 1, 29, 29)
    line[..., 14, 4:25] = 1

    def bent(images):
        """How far the middles of the columns lie from the best straight line, in pixels."""
        x, y = torch.arange(8.0, 21), torch.arange(29.0)[:, None]
        middles = ((images * y).sum(dim=1) / images.sum(dim=1))[:, 8:21]
        straight = torch.stack([x, torch.ones_like(x)], dim=1)
        return (middles.T - straight @ torch.linalg.lstsq(straight, middles.T).solution).std(dim=0)

    affine, elastic = (f(line, generator())[:, 0] for f in (random_affine, random_elastic))
    assert bent(affine).max() < 0.2
    assert 0.2 < bent(elastic).median() < 0.8
    half = random_elastic(line, generator(), 0.5)[:, 0]
    assert bent(half).median() < 0.7 * bent(elastic).median()


def test_an_elastic_change_moves_neighbours_together():
    ramp = torch.linspace(0, 1, 57).repeat(1, 1, 57, 1).repeat(20, 1, 1, 1)
    changed = random_elastic(ramp, generator(), 0.5)[:, 0, 10:-10, 10:-10]
    assert changed.diff(dim=1).abs().max() < 0.05  # one step of the ramp is 0.018
    assert changed.diff(dim=2).abs().max() < 0.06


def test_colours_move_together():
    grey = torch.rand(4, 1, 12, 12)
    moved = random_affine(grey.repeat(1, 3, 1, 1), generator())
    assert_close(moved[:, 0], moved[:, 1])
    assert_close(moved[:, 0], moved[:, 2])


def test_an_augmented_image_is_still_the_same_image():
    bar = torch.zeros(200, 1, 28, 28)
    bar[..., 4:24, 12:16] = 1  # an upright bar stays upright: at most 12 degrees and a slant
    moved = random_affine(bar, generator())
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-6
    upright = moved.sum(dim=(1, 2)).amax(dim=1)  # most ink in one column
    lying = moved.sum(dim=(1, 3)).amax(dim=1)
    assert (upright > lying).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_changed_photo_keeps_its_type_and_stays_between_black_and_white(strength, dtype):
    images = torch.rand(300, 3, 16, 24).to(dtype)
    changed = random_photo(images, generator(), strength)
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert 0 <= changed.min() < changed.max() <= 1
    assert 0.4 < changed.float().mean() < 0.52  # darker: what is bright may be inverted


def test_half_of_the_photos_are_mirrored():
    images = torch.zeros(1000, 3, 16, 16)
    images[..., 8:] = 1
    changed = random_photo(images, generator())
    left, right = changed[..., :8].mean(dim=(1, 2, 3)), changed[..., 8:].mean(dim=(1, 2, 3))
    assert 0.4 < (left > right).float().mean() < 0.6


def test_a_crop_moves_a_photo_by_whole_pixels_up_to_an_eighth_of_its_side(monkeypatch):
    monkeypatch.setattr(data, "change_colours", lambda images, amounts: images)
    images = torch.zeros(600, 1, 16, 32)
    images[:, 0, 8, 15:17] = 1  # mirrored, it lies where it lay
    moved = random_photo(images, generator())[:, 0]
    sharp = ((moved - moved.round()).abs() < 1e-4).all(dim=1).all(dim=1)  # neither turned nor bent
    assert 0.3 < sharp.float().mean() < 0.55
    _, down, right = moved[sharp].round().nonzero().unbind(dim=1)
    assert sorted(set(down.tolist())) == [6, 7, 8, 9, 10]
    assert (right.min().item(), right.max().item()) == (15 - 4, 16 + 4)


def test_each_photo_is_changed_in_two_of_eight_ways(monkeypatch):
    seen = []

    def watched(images, amounts):
        seen.append(amounts)
        return images

    monkeypatch.setattr(data, "change_colours", watched)
    random_photo(torch.rand(4000, 1, 2, 2), generator(), 0.5)
    assert (seen[0] != 0).sum(dim=0).unique().tolist() == [0, 1, 2]
    assert (seen[0] != 0).float().mean(dim=1).tolist() == pytest.approx([1 / 4] * 5, abs=0.03)
    assert seen[0].abs().max().item() == pytest.approx(0.5, abs=0.01)


def test_colours_are_changed_as_the_amounts_say():
    image = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1).repeat(1, 1, 3, 3)
    image[0, :, 1, 1] = 0.3
    ways = change_colours(image.repeat(6, 1, 1, 1), torch.eye(5, 6) * torch.tensor(
        [1, -1, -1, -1, 1, 0]))  # fmt: skip
    assert_close(ways[0], 1.5 * image[0])
    assert_close(ways[1], (image[0] + image.mean()) / 2)
    assert_close(ways[2], (image[0] + image[0].mean(dim=0)) / 2)
    assert_close(ways[3, :, 1, 1], image[0].mean(dim=(1, 2)))  # of its 3 x 3 neighbours
    assert_close(ways[4], torch.where(image[0] > 0.5, 1 - image[0], image[0]))
    assert_close(ways[5], image[0])


def test_a_grey_photo_stays_grey():
    changed = random_photo(torch.rand(64, 1, 8, 8).repeat(1, 3, 1, 1), generator())
    assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)


# ---- cutmix


def numbered_mix(B=64, alpha=1.0, seed=0):
    """Images whose pixels are their number, which is their class too, mixed."""
    images = torch.arange(float(B)).view(-1, 1, 1, 1).repeat(1, 2, 8, 12)
    return cutmix(images, torch.arange(B), B, generator(seed), alpha)


def test_soft_labels_are_the_shares_of_the_area():
    mixed, soft = numbered_mix()
    for n in range(64):
        assert_close(soft[n], torch.bincount(mixed[n, 0].long().flatten(), minlength=64) / 96)
    assert_close(soft.sum(dim=1), torch.ones(64))


def test_what_is_pasted_is_one_box_of_the_same_place_in_another_image():
    images = torch.rand(64, 2, 8, 12)
    mixed, _ = cutmix(images, torch.arange(64), 64, generator())
    numbers, _ = numbered_mix()
    own = torch.arange(64).view(-1, 1, 1)
    pasted = numbers[:, 0] != own  # (B H W)
    rows, columns = pasted.any(dim=2), pasted.any(dim=1)
    assert torch.equal(pasted, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        assert (side.byte().diff(dim=1, prepend=side[:, :1] * 0).eq(1).sum(dim=1) <= 1).all()
    for n, image in enumerate(mixed):
        other = images[int(numbers[n, 0][pasted[n]][0])] if pasted[n].any() else images[n]
        assert torch.equal(image, torch.where(pasted[n], other, images[n]))


def test_every_image_has_a_box_of_its_own_drawn_from_the_generator_alone():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    (mixed, soft), (again, _), (other, _) = numbered_mix(), numbered_mix(), numbered_mix(seed=1)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)
    assert len(soft.amax(dim=1).unique()) > 16
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002


def test_a_small_alpha_pastes_a_whole_image_or_nothing_a_large_one_half():
    little, half = (1 - numbered_mix(512, alpha)[1].diagonal() for alpha in (0.01, 100.0))
    assert 0.4 < (little == 0).float().mean() < 0.6
    assert little.max() > 0.9  # a box in the middle; the border cuts off part of any other
    assert 0.15 < half.mean() < 0.5
    assert 0.4 < half.max() < 0.65


def test_soft_labels_go_into_the_loss_and_keep_the_images_type():
    images, labels = torch.rand(8, 3, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    mixed, soft = cutmix(images, labels, 3, generator())
    assert mixed.dtype == soft.dtype == torch.float64
    torch.nn.functional.cross_entropy(torch.randn(8, 3).double(), soft, label_smoothing=0.1)


def test_an_alpha_of_0_is_refused():
    with pytest.raises(ValueError, match="a <= 0"):
        numbered_mix(alpha=0.0)
