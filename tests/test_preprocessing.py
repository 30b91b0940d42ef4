"""An image becomes what the model was trained to read."""

import numpy as np
import pytest
import torch
from PIL import Image
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
