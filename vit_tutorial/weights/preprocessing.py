"""From an image file to the tensor that a model was trained to read."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from vit_tutorial.data import Data, Split
from vit_tutorial.errors import unknown

Source = object  # a path, a PIL image, an array or a tensor; `read_image` refuses all others


@contextlib.contextmanager
def opened(source: str | Path | Image.Image) -> Iterator[Image.Image]:
    """An image file whose pixels are not read yet, for its size and mode; or an image as it is.

    Whatever fails, here or inside the `with` block, is a ValueError that names the file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's name no file: many pixels, odd metadata
            if isinstance(source, Image.Image):
                yield source
            else:
                with Image.open(source) as image:
                    yield image
    except Exception as error:  # each format has its own way to fail on a damaged file
        name = getattr(source, "filename", "") or source
        raise ValueError(f"cannot read the image {name}: {error}") from error


def read_image(source: Source) -> Image.Image:
    """An image as one looks at it: turned as its EXIF says, on white where it is transparent.

    The mode is "L", grey, or "RGB". Takes the path of a file, an image, an array (H W) or (H W C),
    or a tensor (H W) or (C H W); C is 1 to 4: grey, grey and alpha, RGB, or RGBA. Arrays and
    tensors hold bytes, or floats in 0..1, which are rounded to bytes. 16 bits are cut to 8.
    Raises ValueError for anything else, and names a file that cannot be read.
    """
    if isinstance(source, np.ndarray | Tensor):
        source = from_array(source)
    elif not isinstance(source, str | Path | Image.Image):
        raise ValueError(
            "expected the path of an image, a PIL image, a NumPy array or a tensor, "
            f"got {type(source).__name__}"
        )
    with opened(source) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if not all(upright.size):
            raise ValueError("it has no pixels")
        if upright.mode == "F" or upright.mode.startswith("I"):  # `convert` would cut at 255
            upright = shallow(upright, image.format)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return upright.convert("L" if upright.mode in ("1", "L") else "RGB")


def from_array(array: np.ndarray | Tensor) -> Image.Image:
    """The image in an array or a tensor, as `read_image` takes them."""
    shape = "(H, W) or (H, W, C)"
    values: Any = array
    if isinstance(array, Tensor):
        shape, values = "(H, W) or (C, H, W)", array.detach()
        try:
            values = (values.float() if values.is_floating_point() else values).cpu().numpy()
        except (RuntimeError, TypeError) as error:  # sparse, quantised, without numbers...
            kind = f"{array.layout}, {array.dtype} on {array.device}"
            raise ValueError(f"expected a dense tensor of bytes or floats, got {kind}") from error
        values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4) or not values.size:
        raise ValueError(
            f"expected one image of shape {shape} with C of 1 to 4, got {tuple(array.shape)}"
        )
    return Image.fromarray(as_bytes(values[..., 0] if values.shape[2] == 1 else values))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Bytes as they are, floats in 0..1 as bytes; ValueError for any others."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise ValueError(f"expected bytes (uint8) or floats in 0..1, got {values.dtype}")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # also where one is no number
        raise ValueError(f"expected floats in 0..1, got {low:.9g}..{high:.9g}")
    return (values * 255).round().astype(np.uint8)


def shallow(image: Image.Image, kind: str | None) -> Image.Image:
    """A deep grey image with 8 bits: of 16 bits, or of floats in 0..1; ValueError for others.

    Mode "I" has 32 bits, but not all are used in a file of the kind PNG or PPM.
    """
    values = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        return Image.fromarray(as_bytes(values))
    grey = (values >> 8).clip(0, 255).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model, and the names of the classes.

    The image is resized to `resize`, a (height, width) or the length of its shorter side, and
    cropped in the middle; without `resize` it is squashed into `height_width`. All sizes are in
    pixels; `mean` and `std` are those of pixels in 0..1, one number for each channel. `precision`
    is that of the model. Raises ValueError for values that no image can be prepared with.
    """

    height_width: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bicubic"
    precision: str = field(default="float32", compare=False)

    def __post_init__(self) -> None:
        H, W = self.height_width
        fit = len(self.mean) == len(self.std) and all(abs(x) < 1e6 for x in self.mean)
        if not fit or not all(1e-7 < x < 1e6 for x in self.std):  # also where one is no number
            raise ValueError(
                "expected mean and std with one number for each channel, std above 0, "
                f"got {self.mean} and {self.std}"
            )
        larger = (H, W) if self.resize is None else self.resize
        larger = larger if isinstance(larger, tuple) else (larger, larger)
        if min(H, W, *larger) < 1 or max(larger) > 16 * max(H, W):
            raise ValueError(f"cannot resize images to {self.resize} and crop them to {H} x {W}")
        if self.interpolation.upper() not in Image.Resampling.__members__:
            known = [name.lower() for name in Image.Resampling.__members__]
            raise unknown("interpolation", self.interpolation, known)

    def pixels(self, source: Source) -> Float[Tensor, "1 C H W"]:
        """The resized and cropped image, with pixels in 0..1, for drawing.

        Takes what `read_image` takes, and raises ValueError as it does.
        """
        return self.bytes(source)[None].float() / 255

    def bytes(self, source: Source) -> UInt8[Tensor, "C H W"]:
        """The resized and cropped image in bytes, as a data set holds it."""
        if len(self.mean) not in (1, 3):
            raise ValueError(f"the model reads {len(self.mean)} channels, an image has 1 or 3")
        image = read_image(source).convert("L" if len(self.mean) == 1 else "RGB")
        (H, W), size = self.height_width, self.resize or self.height_width
        if isinstance(size, int):
            height, width = (int(size * x / min(image.size)) for x in (image.height, image.width))
        else:
            height, width = size
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = (  # as torchvision rounds
            round((a - b) / 2) if a >= b else -((b - a) // 2) for a, b in ((width, W), (height, H))
        )
        image = image.crop((left, top, left + W, top + H))
        return torch.from_numpy(np.array(image).reshape(H, W, -1)).permute(2, 0, 1)

    def split(self, split: Split) -> Split:
        """A data set's split as the model reads it: in its channels and size, its mean and std."""
        images, shape = split.images, (len(self.mean), *self.height_width)
        if isinstance(images, Tensor) and (images.shape[1:] != shape or self.resize):
            images = torch.empty(len(split), *shape, dtype=torch.uint8)
            for i, image in enumerate(split.images):
                images[i] = self.bytes(image)
        return replace(
            split, images=images, mean=torch.tensor(self.mean), std=torch.tensor(self.std)
        )

    def normalise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in 0..1, less the mean and divided by the standard deviation."""
        mean, std = (torch.tensor(x).to(images).view(-1, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def __call__(self, source: Source) -> Float[Tensor, "1 C H W"]:
        """A batch of one image, ready for the model: takes and refuses what `read_image` does."""
        return self.normalise(self.pixels(source)).to(getattr(torch, self.precision))


def preprocessing(data: Data) -> Preprocessing:
    """The preprocessing that `data.batches` applies to a data set."""
    H, W = data.train.images.shape[-2:]
    mean, std = tuple(data.train.mean.tolist()), tuple(data.train.std.tolist())
    return Preprocessing((H, W), mean, std, tuple(data.classes))
