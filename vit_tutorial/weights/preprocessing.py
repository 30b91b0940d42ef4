"""From an image file to the tensor that a model was trained to read."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vit_tutorial.data import Data
from vit_tutorial.errors import unknown


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An open image file whose pixels are not read yet: for its size and mode.

    Raises ValueError that names the file if it cannot be read, also inside the `with` block.
    """
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def read_image(path: str | Path) -> Image.Image:
    """The image in a file. Raises ValueError that names the file if it cannot be read."""
    with opened(path) as image:
        image.load()
        if image.mode.startswith("I"):  # 16 bits; `convert` would cut at 255, so scale first
            return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
        return image


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a model, and the names of the classes.

    The image is resized to `resize`, a (height, width) or the length of its shorter side, and
    cropped in the middle; without `resize` it is squashed into `height_width`. All sizes are in
    pixels; `mean` and `std` are those of pixels in 0..1, one number for each channel.
    """

    height_width: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if self.interpolation.upper() not in Image.Resampling.__members__:
            known = [name.lower() for name in Image.Resampling.__members__]
            raise unknown("interpolation", self.interpolation, known)

    def pixels(self, image: Image.Image | str | Path) -> Float[Tensor, "1 C H W"]:
        """The resized and cropped image, with pixels in 0..1, for drawing.

        Raises ValueError that names the file if it cannot be read.
        """
        image = image if isinstance(image, Image.Image) else read_image(image)
        image = image.convert("L" if len(self.mean) == 1 else "RGB")
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
        array = np.asarray(image, dtype=np.float32).reshape(H, W, -1) / 255
        return torch.from_numpy(array).permute(2, 0, 1)[None]

    def normalise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in 0..1, less the mean and divided by the standard deviation."""
        mean, std = (torch.tensor(x).to(images).view(-1, 1, 1) for x in (self.mean, self.std))
        return (images - mean) / std

    def __call__(self, image: Image.Image | str | Path) -> Float[Tensor, "1 C H W"]:
        """A batch of one image, ready for the model. Raises ValueError as `pixels` does."""
        return self.normalise(self.pixels(image))


def preprocessing(data: Data) -> Preprocessing:
    """The preprocessing that `data.batches` applies to a data set."""
    H, W = data.train.images.shape[-2:]
    mean, std = tuple(data.train.mean.tolist()), tuple(data.train.std.tolist())
    return Preprocessing((H, W), mean, std, tuple(data.classes))
