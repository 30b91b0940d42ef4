"""Augmentations beside the lesson's `random_affine`: mirrored, elastic, for photographs, CutMix."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.data import affine_places, random_affine, random_matrices


def random_mirror(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Mirror half of the images, left for right, then change all as `random_affine` does."""
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < min(strength, 1) / 2
    mirrored = torch.where(chosen.to(images.device, non_blocking=True), images.flip(-1), images)
    return random_affine(mirrored, generator, strength)


def random_elastic(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Change images as `random_affine` does, and bend each by a smooth random field of its own.

    A grid of 6 x 6 nodes over a square image, with as many more along a longer side as keep their
    distance; each moves by up to 3.6 % of the shorter side at strength 1 (1 pixel of 28), so that
    wide images are bent as much as square ones. Bicubic interpolation gives the field between the
    nodes: a cheaper form of Simard's elastic distortions
    (https://doi.org/10.1109/ICDAR.2003.1227801).
    """
    B, (H, W), short = len(images), images.shape[2:], min(images.shape[2:])
    places = affine_places(images, random_matrices(B, generator, strength))
    rows, columns = (1 + round(5 * side / short) for side in (H, W))
    shares = torch.tensor([short / W, short / H]).view(2, 1, 1)  # grid_sample's sides are 2 long
    nodes = strength * 0.072 * (torch.rand(B, 2, rows, columns, generator=generator) * 2 - 1)
    field = F.interpolate(
        (nodes * shares).to(images, non_blocking=True),
        size=(H, W),
        mode="bicubic",
        align_corners=True,
    )
    return F.grid_sample(images, places + field.permute(0, 2, 3, 1), align_corners=False)


def random_photo(
    images: Float[Tensor, "B C H W"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "B C H W"]:
    """Crop and mirror photographs, then change each in two of eight ways, drawn image by image.

    The ways are rotation, two shears and those of `change_colours`. As in RandAugment
    (https://arxiv.org/abs/1909.13719), but with a random amount of each change: at strength 1 up to
    30 degrees, a shear of 0.3, half of brightness, contrast and saturation, a full blur. The crop
    moves an image by up to an eighth of its side. Pixels lie in 0..1 before and after.
    """
    B, (H, W) = len(images), images.shape[2:]
    ways = torch.rand(8, B, generator=generator).argsort(dim=0) < 2
    amounts = strength * ways * (torch.rand(8, B, generator=generator) * 2 - 1)
    mirror = 1 - 2 * (torch.rand(B, generator=generator) < min(strength, 1) / 2).float()
    right, down = strength * (torch.rand(2, B, generator=generator) * 2 - 1) / 8
    angle, x, y = amounts[0] * math.radians(30), 0.3 * amounts[1], 0.3 * amounts[2]
    cos, sin = angle.cos(), angle.sin()
    rows = [  # by whole pixels, so that an image that is only moved stays sharp
        torch.stack([mirror * (cos - sin * y), cos * x - sin, (right * W).round() * 2 / W], dim=-1),
        torch.stack([mirror * (sin + cos * y), sin * x + cos, (down * H).round() * 2 / H], dim=-1),
    ]
    places = affine_places(images, torch.stack(rows, dim=1))
    moved = F.grid_sample(images, places, padding_mode="reflection", align_corners=False)
    return change_colours(moved, amounts[3:].to(images, non_blocking=True))


def change_colours(
    images: Float[Tensor, "B C H W"], amounts: Float[Tensor, "5 B"]
) -> Float[Tensor, "B C H W"]:
    """Change brightness, contrast, saturation and sharpness, and invert what is bright.

    Every image has its own five amounts in -1..1, in that order; 0 changes nothing. Pixels lie in
    0..1 before and after.
    """
    bright, contrast, colour, sharp, invert = amounts[..., None, None, None]  # each (B 1 1 1)
    images = images * (1 + bright / 2)
    images = images.mean(dim=(1, 2, 3), keepdim=True).lerp(images, 1 + contrast / 2)
    images = images.mean(dim=1, keepdim=True).lerp(images, 1 + colour / 2)
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = blurred.lerp(images, 1 + sharp).clamp(0, 1)
    return torch.where(images > 1 - invert.abs() / 2, 1 - images, images)


def cutmix(
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, " B"],
    classes: int,
    generator: torch.Generator,
    alpha: float = 1.0,
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Paste a box of another image of the batch into each; soft labels hold the shares of the area.

    `classes` is the number of the model's logits, which may be more than the data have classes.
    The share of the area is drawn from Beta(alpha, alpha), and each image has its own box, as in
    CutMix (https://arxiv.org/abs/1905.04899). Raises ValueError unless alpha is above 0.
    """
    B, _, H, W = images.shape
    dice = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
    side = torch.from_numpy(dice.beta(alpha, alpha, B) ** 0.5)  # of the box, as a share of H or W
    middle = torch.rand(2, B, 1, generator=generator)
    inside = [
        (((torch.arange(n) + 0.5) / n - place).abs() < side[:, None] / 2)
        for n, place in zip((H, W), middle, strict=True)
    ]
    box = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(
        images.device, non_blocking=True
    )  # (B 1 H W)
    other = torch.randperm(B, generator=generator).to(images.device, non_blocking=True)
    known = (labels[:, None] == torch.arange(classes, device=labels.device)).to(images)
    shares = box.to(images).mean(dim=(2, 3))  # (B 1); the part of a box past the edge is not pasted
    return torch.where(box, images[other], images), known.lerp(known[other], shares)


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "affine": random_affine,
    "mirror": random_mirror,
    "elastic": random_elastic,
    "photo": random_photo,
}
