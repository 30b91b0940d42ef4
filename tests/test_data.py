"""Data sets are held whole, split without overlap, and normalised by their own statistics."""

import gzip
import pickle
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import datasets

from vit_tutorial import data
from vit_tutorial.data import (
    Data,
    Split,
    affine_places,
    as_bytes,
    batches,
    data_root,
    default_dataset,
    digits,
    load,
    random_affine,
    random_matrices,
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


def test_clothes_are_unpacked_from_debians_package_where_it_is_installed(
    tmp_path, monkeypatch, capsys
):
    archives, files = tmp_path / "debian", write_mnist(tmp_path / "plain", "FashionMNIST")
    archives.mkdir()
    for file in files.iterdir():
        (archives / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(data, "DEBIAN", archives)
    loaded = load("fashion_mnist", root=tmp_path / "root")
    assert f"unpacking {archives} into" in capsys.readouterr().out
    assert torch.equal(loaded.test.images[:, 0], torch.from_numpy(draw(40, 28, 28)))
    load("fashion_mnist", root=tmp_path / "root")
    assert not capsys.readouterr().out  # the second time it is there


def test_of_60000_training_images_5000_are_for_validation():
    images = torch.zeros(60000, 1, 1, 1, dtype=torch.uint8)
    labels = torch.arange(60000) % 10
    test = (images[:10], labels[:10])
    parts = data.split_off_validation("mnist", (images, labels), test, list("0123456789"), 0)
    assert [len(s) for s in (parts.train, parts.val, parts.test)] == [55000, 5000, 10]


def test_cifars_files_are_read_with_colour_first_and_statistics_per_channel(tmp_path, monkeypatch):
    folder = tmp_path / datasets.CIFAR10.base_folder
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
        monkeypatch.setattr(datasets.CIFAR10, attribute, value)
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


@pytest.mark.parametrize("part", ["train-images-idx3", "t10k-labels-idx1"])
@pytest.mark.parametrize("bad", [b"", b"hello", b"\0\0\x08\x03", None])
def test_of_damaged_files_it_is_said_what_to_delete_and_they_are_no_default(
    tmp_path, monkeypatch, capsys, part, bad
):
    file = write_mnist(tmp_path) / f"{part}-ubyte"
    file.write_bytes(file.read_bytes()[:-9] if bad is None else bad)
    message = rf"{tmp_path}/MNIST/raw is damaged \(.*\): delete it, to fetch it anew"
    with pytest.raises(ValueError, match=message):
        load("mnist", root=tmp_path)
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("VIT_TUTORIAL_BUDGET")
    assert default_dataset() == "digits"
    assert f"{tmp_path}/MNIST/raw is damaged" in capsys.readouterr().out


def test_images_and_labels_of_another_number_are_damaged(tmp_path):
    folder = write_mnist(tmp_path)
    labels = (folder / "t10k-labels-idx1-ubyte").read_bytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=r"raw is damaged \(240 images and 40 labels\)"):
        load("mnist", root=tmp_path)


def test_waiting_for_the_network_has_an_end_and_the_callers_timeout_comes_back(
    tmp_path, monkeypatch
):
    patience = []

    class Slow(datasets.VisionDataset):
        def __init__(self, root, train, download):
            patience.append(data.socket.getdefaulttimeout())
            raise RuntimeError("not found")

    monkeypatch.setattr(datasets, "MNIST", Slow)
    with pytest.raises(RuntimeError):
        data.fetch("mnist", tmp_path, train=True)
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


def test_a_folder_of_images_is_left_to_the_laboratory(tmp_path):
    with pytest.raises(ValueError, match=r"for folder:.* use vit_tutorial\.lab\.folders\.load"):
        load(f"folder:{tmp_path}")


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
    home = data_root()
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as good as none
    assert data_root() == home


def test_where_there_is_no_home_folder_it_is_said_what_to_set(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    for name in ("VIT_TUTORIAL_DATA", "XDG_CACHE_HOME", "VIT_TUTORIAL_BUDGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(data.Path, "expanduser", homeless)
    with pytest.raises(ValueError, match=r"home directory\. Set VIT_TUTORIAL_DATA to a folder"):
        load("mnist")
    assert default_dataset() == "digits"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"mnist is neither in .*file/cache nor could it be fetc"):
        load("mnist", root=tmp_path / "file" / "cache")


@pytest.mark.parametrize(("labels", "range_"), [([0, 5], r"0\.\.5"), ([-1, 1], r"-1\.\.1")])
def test_labels_without_a_class_are_refused(labels, range_):
    part = split_of(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor(labels))
    message = rf"labels must lie in 0\.\.1 for 2 classes, got {range_}"
    good = split_of(part.images, torch.tensor([0, 1]))
    for parts in ((part, good, good), (good, part, good), (good, good, part)):
        with pytest.raises(ValueError, match=message):
            Data("wrong", *parts, classes=["a", "b"])


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


# ---- the lesson's augmentation


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


def as_head_did(images, matrices):
    """`affine_places` before it turned in pixels: the matrices act on sides from -1 to 1."""
    return F.affine_grid(matrices.to(images), list(images.shape), align_corners=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("side", [28, 33])
def test_square_images_are_turned_as_ever_to_the_bit(side, dtype):
    images = torch.rand(32, 1, side, side).to(dtype)
    matrices = random_matrices(32, generator(), 1.0)
    assert torch.equal(affine_places(images, matrices), as_head_did(images, matrices))


def test_a_seed_gives_the_figures_that_it_always_gave():
    images = torch.rand(3, 3, 12, 12, generator=generator(5))
    changed = random_affine(images, generator(1), 0.8)
    recorded = [0.736992, 0.51275, 0.537396, 0.80087, 0.335889, 0.186109, 0.48273, 0.478856,
                0.198363]  # fmt: skip
    assert changed[:, :, 5, 7].flatten().tolist() == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize(("H", "W"), [(64, 128), (128, 64), (64, 64)])
def test_a_turn_is_a_turn_in_pixels(H, W):
    """Two marks, right of and below the middle, go where a rotation by 12 degrees puts them."""
    angle = torch.tensor(12.0).deg2rad()
    rotation = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    matrix = torch.cat([rotation, torch.zeros(2, 1)], dim=1)[None]
    y, x = torch.meshgrid(torch.arange(H) - (H - 1) / 2, torch.arange(W) - (W - 1) / 2,
                          indexing="ij")  # fmt: skip
    marks = torch.tensor([[20.0, 0.0], [0.0, 20.0]])
    images = [torch.exp(-((x - right) ** 2 + (y - down) ** 2) / 8) for right, down in marks]
    image = torch.stack(images)[None]  # a mark in each channel
    turned = F.grid_sample(image, affine_places(image, matrix), align_corners=False)[0]
    mass = turned.sum(dim=(1, 2))
    found = torch.stack([(turned * axis).sum(dim=(1, 2)) / mass for axis in (x, y)], dim=1)
    assert_close(found, marks @ rotation, atol=0.02, rtol=0)  # a pixel comes from rotation @ it
    assert abs(torch.dot(*found)) < 1  # of 400: they stay at a right angle


def source_of(changed, H, W):
    """The 2 x 2 matrices that say from where, in pixels, the pixels near the middle come."""
    middle = changed[..., H // 2 - 6 : H // 2 + 6, W // 2 - 6 : W // 2 + 6].double()
    down, right = (middle.diff(dim=d).mean(dim=(2, 3)) for d in (2, 3))  # each (B 2)
    return torch.stack([right, down], dim=2)  # columns: one step to the right, one down


@pytest.mark.parametrize(("H", "W"), [(64, 128), (128, 64)])
def test_images_that_are_not_square_are_changed_by_the_amounts_that_the_docstring_names(H, W):
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    ramps = torch.stack([x, y]).expand(500, 2, H, W)  # a pixel's value says where it comes from
    Q, R = torch.linalg.qr(source_of(random_affine(ramps, generator()), H, W))
    signs = R.diagonal(dim1=1, dim2=2).sign()
    Q, R = Q * signs[:, None, :], R * signs[:, :, None]  # a rotation; then sizes and shear
    angle = torch.atan2(Q[:, 1, 0], Q[:, 0, 0]).rad2deg().abs()
    sizes = (R.diagonal(dim1=1, dim2=2) - 1).abs()
    shear = (R[:, 0, 1] / R[:, 1, 1]).abs()
    for amount, limit in ((angle, 12), (sizes, 0.12), (shear, 0.15)):
        assert 0.95 * limit < amount.max() < 1.001 * limit


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(images=torch.rand(3, 1, 2, 2)), "expected images as bytes .*, got torch.float32"),
        (dict(labels=torch.arange(4)), "expected 3 labels as whole numbers, got 4 of torch.int64"),
        (dict(labels=torch.zeros(3)), "expected 3 labels as whole .*, got 3 of torch.float32"),
        (dict(mean=torch.zeros(3)), r"got \(3, 1, 2, 2\) with 3 and 1"),
        (dict(images=torch.zeros(3, 1, 2).byte()), r"expected images \(M C H W\) .*\(3, 1, 2\)"),
    ],
)
def test_a_split_whose_parts_do_not_fit_is_refused(wrong, message):
    images, one = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.ones(1)
    parts = dict(images=images, labels=torch.arange(3), mean=one, std=one) | wrong
    with pytest.raises(ValueError, match=message):  # in tests the signature is checked before
        Split.__post_init__(SimpleNamespace(**parts))
    with pytest.raises(TypeCheckError):
        Split(**parts)
