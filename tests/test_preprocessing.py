"""An image becomes what the model was trained to read."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.testing import assert_close
from torchvision.transforms import v2

from vit_tutorial.data import batches
from vit_tutorial.data import load as load_data
from vit_tutorial.weights.preprocessing import Preprocessing, opened, preprocessing, read_image

PREPARED = Preprocessing((8, 12), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), ("cat", "dog", "emu"))


def test_an_image_of_the_data_set_becomes_what_batches_give(tmp_path):
    data = load_data("digits")
    images, _ = next(batches(data.test, 3, None))
    prepare = preprocessing(data)
    for i in range(3):
        Image.fromarray(data.test.images[i, 0].numpy()).save(tmp_path / "digit.png")
        assert_close(prepare(tmp_path / "digit.png"), images[i : i + 1])
    assert prepare.classes == tuple(data.classes)


def test_colours_are_normalised_channel_by_channel():
    got = PREPARED(Image.new("RGB", (12, 8), (255, 51, 0)))
    assert got.shape == (1, 3, 8, 12)
    by_hand = [(1 - 0.5) / 0.2, (0.2 - 0.4) / 0.2, (0 - 0.3) / 0.1]
    for c in range(3):
        assert_close(got[0, c], torch.full((8, 12), by_hand[c]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_is_brought_to_the_models_size_and_channels(mode, channels):
    prepare = Preprocessing((8, 12), (0.5,) * channels, (0.5,) * channels, ("a",))
    image = Image.new("L", (30, 17), 255).convert(mode)
    assert_close(prepare(image), torch.ones(1, channels, 8, 12))


def test_grey_levels_of_16_bits_are_scaled_not_cut_off(tmp_path):
    Image.fromarray(np.full((8, 12), 1 << 15, dtype=np.uint16)).save(tmp_path / "grey.png")
    prepare = Preprocessing((8, 12), (0.0,), (1.0,), ("a",))
    assert_close(prepare(tmp_path / "grey.png"), torch.full((1, 1, 8, 12), 128 / 255))


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    for name in ("no.png", "nowhere.png"):
        with pytest.raises(ValueError, match=f"cannot read the image .*{name}"):
            PREPARED(tmp_path / name)


@pytest.mark.parametrize("size", [(30, 17), (17, 30), (61, 61)])
@pytest.mark.parametrize("resize", [None, 5, 13, 16, (14, 21), (5, 5), (5, 11)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_resized_and_cropped_as_torchvision_does(size, resize, interpolation):
    H, W = (8, 12)
    prepare = Preprocessing((H, W), (0.0,) * 3, (1.0,) * 3, ("a",), resize, interpolation)
    noise = torch.randint(256, (size[1], size[0], 3), dtype=torch.uint8).numpy()
    mode = v2.InterpolationMode(interpolation)
    steps = [v2.Resize(resize or (H, W), mode), v2.CenterCrop((H, W)), v2.PILToTensor()]
    expected = v2.Compose(steps)(Image.fromarray(noise))[None] / 255
    assert torch.equal(prepare.pixels(Image.fromarray(noise)), expected)


def test_an_interpolation_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="unknown interpolation 'random'; did you mean"):
        Preprocessing((8, 12), (0.0,), (1.0,), ("a",), interpolation="random")


def test_the_size_and_mode_of_an_image_are_known_before_its_pixels_are_read(tmp_path):
    Image.new("L", (300, 200)).save(tmp_path / "grey.png")
    content = (tmp_path / "grey.png").read_bytes()
    (tmp_path / "grey.png").write_bytes(content[:60])  # the head, and hardly any pixels
    with opened(tmp_path / "grey.png") as image:
        assert (image.size, image.mode) == ((300, 200), "L")
    with pytest.raises(ValueError, match=r"cannot read the image .*grey\.png"):
        read_image(tmp_path / "grey.png")


# ---- one look at an image, however it is given


def saved(image, file, **options):
    """The image as a path, and open: as it came, and once its file is read."""
    image.save(file, **options)
    again = Image.open(file)
    again.load()
    return file, Image.open(file), again


def seen(image):
    """What is read, (H W) or (H W C)."""
    return np.asarray(read_image(image)).tolist()


def png(depth, colour, rows, **chunks):
    """A PNG file of one pixel a row, written by hand, for what Pillow does not write."""
    head = struct.pack(">IIBBBBB", 1, len(rows), depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *((name.encode(), data) for name, data in chunks.items())]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def clear_palette():
    """Three pixels of one black each: opaque, half and not to be seen."""
    image = Image.new("P", (3, 1))
    image.putpalette([0] * 9)
    image.putdata([0, 1, 2])
    return image, {"transparency": bytes([255, 128, 0])}


def pixels_of(mode, *colours):
    image = Image.new(mode, (len(colours), 1))
    image.putdata(colours)
    return image, {}


@pytest.mark.parametrize(
    "drawn",
    [
        pixels_of("RGBA", (0, 0, 0, 255), (0, 0, 0, 128), (0, 0, 0, 0)),
        pixels_of("LA", (0, 255), (0, 128), (0, 0)),
        clear_palette(),
    ],
    ids=["RGBA", "LA", "P"],
)
def test_what_is_transparent_is_seen_on_white(tmp_path, drawn):
    image, options = drawn
    for source in saved(image, tmp_path / "icon.png", **options):
        assert seen(source) == [[[0] * 3, [127] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("mode", "clear", "expected"),
    [
        ("1", 0, [[255, 255]]),
        ("L", 0, [[255, 200]]),
        ("L", 200, [[0, 255]]),
        ("RGB", (0, 0, 0), [[[255] * 3, [200, 0, 0]]]),
    ],
)
def test_a_colour_that_stands_for_transparent_is_white(tmp_path, mode, clear, expected):
    image, _ = pixels_of(mode, *((0, 0, 0), (200, 0, 0)) if mode == "RGB" else (0, 200))
    for source in saved(image, tmp_path / "icon.png", transparency=clear):
        got = np.asarray(read_image(source).convert("RGB" if mode == "RGB" else "L"))
        assert got.tolist() == expected


def test_a_transparent_level_of_16_bits_is_white_and_no_other(tmp_path):
    rows = [struct.pack(">H", level) for level in (256, 257, 0)]
    (tmp_path / "deep.png").write_bytes(png(16, 0, rows, tRNS=struct.pack(">H", 257)))
    assert seen(tmp_path / "deep.png") == [[1], [255], [0]]


def test_an_opaque_image_is_not_changed_by_its_alpha():
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    opaque = Image.fromarray(colours).convert("RGBA")
    assert seen(opaque) == colours.tolist()


# where the first and the last of three pixels, lying in a row, are seen
TURNED = {1: (0, 2), 2: (2, 0), 3: (2, 0), 4: (0, 2), 5: (0, 2), 6: (0, 2), 7: (2, 0), 8: (2, 0)}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, kind):
    image, _ = pixels_of("RGB", (10, 0, 0), (20, 0, 0), (30, 0, 0))
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    for source in saved(image, tmp_path / f"photo.{kind}", exif=exif, **options):
        got = np.asarray(read_image(source))[..., 0]
        assert got.shape == ((3, 1) if orientation > 4 else (1, 3))
        first, last = TURNED[orientation]
        assert got.flatten()[[first, last]].tolist() == [10, 30]


def test_a_photograph_with_a_damaged_exif_is_read_as_it_lies(tmp_path):
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"):
        Image.new("RGB", (6, 4), "white").save(tmp_path / "photo.jpg", exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_image(tmp_path / "photo.jpg").size == (6, 4)


def test_the_callers_image_stays_as_it_is():
    image, _ = pixels_of("RGBA", (1, 2, 3, 0), (4, 5, 6, 255))
    image.getexif()[0x0112] = 6
    before = image.tobytes()
    assert read_image(image).size == (1, 2)
    assert (image.size, image.tobytes(), image.getexif()[0x0112]) == ((2, 1), before, 6)


DEEP = np.array([[0, 256, 30000, 65535]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("file", "order"),
    [("deep.png", "<u2"), ("deep.tif", "<u2"), ("deep.tif", ">u2"), ("deep.pgm", "<u2")],
)
def test_16_bits_are_the_same_by_path_and_open(tmp_path, file, order):
    image = Image.fromarray(DEEP.astype(order))
    for source in (*saved(image, tmp_path / file), image):
        assert seen(source) == [[0, 1, 117, 255]]


def test_floats_in_0_to_1_are_scaled(tmp_path):
    image = Image.fromarray(np.array([[0, 0.2, 0.5, 1]], dtype=np.float32))
    for source in (*saved(image, tmp_path / "float.tif"), image):
        assert seen(source) == [[0, 51, 128, 255]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32([[0, 200]]), r"floats in 0\.\.1, got 0\.\.200"),
        (np.float32([[-0.5, 1]]), r"floats in 0\.\.1, got -0\.5\.\.1"),
        (np.float32([[0, np.nan]]), r"floats in 0\.\.1, got nan\.\.nan"),
        (np.int32([[0, 200]]), r"bytes \(uint8\) or floats in 0\.\.1, got int32"),
    ],
)
def test_deep_greys_of_an_unknown_range_are_refused_by_name(tmp_path, values, message):
    image = Image.fromarray(values)
    path, *both = saved(image, tmp_path / "deep.tif")
    for source in (path, *both):
        with pytest.raises(ValueError, match=rf"cannot read the image .*deep\.tif: .*{message}"):
            PREPARED(source)
    with pytest.raises(ValueError, match=rf"cannot read the image .*mode={image.mode}.*{message}"):
        PREPARED(image)


def test_the_first_picture_of_several_is_read(tmp_path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for name in ("moving.gif", "moving.png", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert seen(tmp_path / name) == [[[255, 0, 0]] * 5] * 4
    exif = frames[0].getexif()
    exif[0x0112] = 6
    options = dict(save_all=True, append_images=frames[1:], exif=exif)
    frames[0].save(tmp_path / "both.jpg", format="MPO", **options)
    assert read_image(tmp_path / "both.jpg").size == (4, 5)
    assert np.abs(np.array(seen(tmp_path / "both.jpg")) - [255, 0, 0]).max() < 3


def test_colours_for_print_and_of_lab_are_brought_to_rgb(tmp_path):
    inks, _ = pixels_of("CMYK", (0, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255))
    for source in saved(inks, tmp_path / "print.tif"):
        assert seen(source) == [[[255] * 3, [255, 0, 0], [0] * 3]]
    white = Image.new("LAB", (1, 1), (255, 128, 128))
    for source in saved(white, tmp_path / "lab.tif"):
        assert min(seen(source)[0][0]) > 250


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_half_a_file_is_refused_by_name_also_when_it_is_open(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = tmp_path / f"half.{kind}"
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match=rf"cannot read the image .*half\.{kind}: ."):
        PREPARED(file)
    with (tmp_path / "half.png").open("wb") as cut:
        Image.fromarray(noise).save(cut, format="png")
        cut.truncate(2000)
    with pytest.raises(ValueError, match=r"cannot read the image .*half\.png: ."):
        PREPARED(Image.open(tmp_path / "half.png"))


def test_whatever_a_reader_of_a_format_raises_becomes_one_error(tmp_path, monkeypatch):
    Image.new("L", (3, 3)).save(tmp_path / "odd.png")
    for error in (struct.error, KeyError, ZeroDivisionError, MemoryError, EOFError):

        def fail(*_, error=error):
            raise error("oh")

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(ValueError, match=r"cannot read the image .*odd\.png: .*oh"):
            read_image(tmp_path / "odd.png")


def test_an_image_of_too_many_pixels_is_named_and_one_of_many_is_read(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # more is a warning, twice that an error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "bomb.png").size == (20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"cannot read the image .*bomb\.png: .*exceeds limit"):
        PREPARED(tmp_path / "bomb.png")


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"cannot read the image .*size=0x3.*: it has no pixels"):
        PREPARED(Image.new("RGB", (0, 3)))


# ---- arrays and tensors


def test_an_array_and_a_tensor_are_read_as_the_image_is(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (17, 30, 3), dtype=np.uint8)
    grey = Preprocessing((8, 12), (0.1,), (0.3,), ("a",), 9)
    for pixels in (colours, colours[..., 0]):
        tensor = torch.from_numpy(np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels)
        sources = [pixels, pixels / 255, pixels.astype(np.float32) / 255, pixels[::1], tensor]
        sources += [tensor / 255, (tensor.double() / 255).requires_grad_()]
        sources += [pixels[..., None], tensor[None]] if pixels.ndim == 2 else []
        for prepare in (PREPARED, grey):
            expected = prepare(Image.fromarray(pixels))
            for source in sources:
                assert torch.equal(prepare(source), expected)


def test_arrays_that_are_turned_or_of_half_precision_are_read():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert seen(pixels[::-1, ::2]) == pixels[::-1, ::2].tolist()
    assert seen(torch.from_numpy(pixels).T) == pixels.T.tolist()
    for kind in (torch.float16, torch.bfloat16):
        assert seen(torch.tensor([[0, 0.25, 1]], dtype=kind)) == [[0, 64, 255]]


def test_alpha_in_an_array_is_seen_on_white():
    assert seen(np.uint8([[[0, 0, 0, 0], [9, 8, 7, 255]]])) == [[[255] * 3, [9, 8, 7]]]
    assert seen(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]])) == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 8, 8, 3)), r"one image of shape \(H, W\) or \(H, W, C\).*\(2, 8, 8, 3\)"),
        (np.zeros((3, 8, 8)), r"\(H, W\) or \(H, W, C\) with C of 1 to 4, got \(3, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"\(H, W\) or \(C, H, W\) with C of 1 to 4, got \(8, 8, 3\)"),
        (torch.zeros(1, 1, 8, 8), r"one image .* got \(1, 1, 8, 8\)"),
        (np.zeros(8), r"got \(8,\)"),
        (np.zeros((0, 8)), r"got \(0, 8\)"),
        (np.zeros((8, 8), dtype=np.uint16), r"bytes \(uint8\) or floats in 0\.\.1, got uint16"),
        (np.zeros((8, 8), dtype=bool), r"bytes \(uint8\) or floats in 0\.\.1, got bool"),
        (torch.zeros(8, 8, dtype=torch.long), r"bytes .* got int64"),
        (np.full((8, 8), "x"), r"bytes .* got <U1"),
        (torch.full((1, 8, 8), 255.0), r"floats in 0\.\.1, got 255\.\.255"),
        (np.full((8, 8), np.inf), r"floats in 0\.\.1, got inf\.\.inf"),
        (np.full((8, 8), 1 + 1e-7), r"floats in 0\.\.1, got 1\.0000001\.\.1\.0000001"),
        (
            torch.eye(8).to_sparse(),
            "dense tensor of bytes or floats, got torch.sparse_coo, torch.float32 on cpu",
        ),
        (torch.zeros(8, 8, device="meta"), "dense tensor of bytes or floats, got .* on meta"),
        (None, "a PIL image, a NumPy array or a tensor, got NoneType"),
        ([[0, 1]], "expected the path of an image, .* got list"),
        (b"photo.png", "expected the path of an image, .* got bytes"),
    ],
)
def test_what_is_no_image_is_told_what_is(source, message):
    with pytest.raises(ValueError, match=message):
        PREPARED(source)
