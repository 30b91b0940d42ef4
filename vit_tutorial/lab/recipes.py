"""Recipes that chapters and the command line train with: the lesson's numbers and the lab's."""

import os
import sys
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from vit_tutorial.data import Data
from vit_tutorial.errors import unknown
from vit_tutorial.lab.augment import AUGMENTATIONS
from vit_tutorial.model import ViTConfig
from vit_tutorial.train import TrainConfig

CHOICES = {
    "optimizer": ("adamw", "muon"),
    "augmentation": tuple(AUGMENTATIONS),
    "precision": ("float32", "bf16"),
}


@dataclass(frozen=True)
class Recipe(TrainConfig):
    """The lesson's recipe and what the laboratory adds; with the defaults it is the lesson's.

    Raises ValueError for a number that makes no sense.
    """

    layer_decay: float = 1.0  # the learning rate of a block as a share of the next block's
    optimizer: str = "adamw"  # or "muon" for the matrices inside the blocks
    muon_rate: float = 0.02  # the learning rate of those
    average: float = 0.0  # decay of the exponential moving average of the weights; 0: none
    label_smoothing: float = 0.0  # share of each label that is spread evenly over all classes
    augmentation: str = "affine"  # or "mirror", "elastic", "photo"
    cutmix: float = 0.0  # alpha of its Beta distribution; 0: none
    drop_patches: float = 0.0  # share of the patches that most steps leave out
    precision: str = "float32"  # or "bf16": mixed precision
    accumulate: int = 1  # micro-batches a step, one after the other where memory is short
    shortcut: bool = False  # the last block works for the class token alone

    def __post_init__(self) -> None:
        if wrong := [name for name, value in vars(self).items() if value != value]:
            raise ValueError(f"{wrong[0]} must be a number, got nan")
        super().__post_init__()
        for name in ("muon_rate", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("average", "label_smoothing", "drop_patches"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if self.augment > 10:  # far outside the image; the loss would end as no number
            raise ValueError(f"augment must be at most 10, got {self.augment}")
        if not self.cutmix >= 0:
            raise ValueError(f"cutmix must be at least 0, got {self.cutmix}")
        rate = max(self.learning_rate, self.muon_rate * (self.optimizer == "muon"))
        if not rate * self.weight_decay < 1:  # no weight would outlive a step
            said = f"got {self.weight_decay} times {rate}"
            raise ValueError(f"weight_decay times the learning rate must be below 1, {said}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known)
        if self.batch_size % self.accumulate:
            raise ValueError(f"{self.accumulate} parts do not divide batch_size {self.batch_size}")


class Preset(NamedTuple):
    """A model's shape, except for what the data set fixes, and how it is trained."""

    model: dict[str, int]
    training: Recipe


SMALL = {"patch_size": 7, "layers": 4, "hidden_size": 64, "mlp_size": 128, "heads": 4}
FLAT = {"patch_size": 14, "layers": 3, "hidden_size": 96, "mlp_size": 192, "heads": 4}
LITE = {"patch_size": 4, "layers": 7, "hidden_size": 256, "mlp_size": 512, "heads": 4}
PLAIN = Recipe(shortcut=True)
FAST = replace(
    PLAIN, epochs=6, learning_rate=0.01, warmup=0.05, augment=0.7, optimizer="muon", average=0.98
)
BEST = replace(
    PLAIN, epochs=100, learning_rate=0.006, warmup=0.05, augmentation="elastic",
    optimizer="muon", average=0.998,
)  # fmt: skip
CLOTHES = replace(
    BEST, epochs=50, learning_rate=0.002, augmentation="mirror", augment=0.3, muon_rate=0.006,
    label_smoothing=0.1, average=0.999, drop_patches=0.5,
)  # fmt: skip
PHOTOS = replace(
    PLAIN, epochs=200, learning_rate=0.002, warmup=0.05, augmentation="photo", cutmix=1.0,
    label_smoothing=0.1, optimizer="muon", average=0.999,
)  # fmt: skip
HALF_SEEN = replace(PHOTOS, epochs=28, muon_rate=0.008, augment=0.5, cutmix=0.0, drop_patches=0.5)
FEW_PHOTOS = replace(
    PHOTOS, epochs=40, batch_size=64, learning_rate=0.005, augment=0.5, cutmix=0.0, average=0.99
)
PRESETS = {
    "digits": Preset(SMALL, replace(PLAIN, epochs=80, batch_size=64)),
    "mnist": Preset(SMALL, replace(PLAIN, epochs=16)),  # a few minutes on two cores
    "mnist-fast": Preset(SMALL | {"layers": 3}, FAST),  # benchmarks.mnist
    "mnist-p4": Preset(
        SMALL | {"patch_size": 4, "layers": 6}, replace(PLAIN, epochs=24)
    ),  # shipped
    "mnist-best": Preset(FLAT, BEST),  # benchmarks.small_models
    "fashion": Preset(FLAT | {"patch_size": 4, "layers": 5}, CLOTHES),  # shipped; an hour of a core
    "cifar10": Preset(LITE, PHOTOS),  # for a GPU
    # under a million parameters, an hour of a core
    "cifar10-small": Preset(LITE | {"layers": 6, "hidden_size": 96, "mlp_size": 192}, HALF_SEEN),
}


# photographs of somebody's own, read at 64 pixels: minutes on one core for some thousands
OWN_PHOTOS = Preset(
    LITE | {"patch_size": 8, "layers": 6, "hidden_size": 96, "mlp_size": 192}, FEW_PHOTOS
)


def usual_preset(data: Data) -> Preset:
    """What a data set is trained with where nothing is asked for: by its name, or its images."""
    C, H, W = data.train.images.shape[1:]
    if data.name in ("digits", "mnist"):
        return PRESETS["digits" if data.name == "digits" else "mnist-fast"]
    return OWN_PHOTOS if C == 3 and min(H, W) >= 32 else PRESETS["mnist"]


def batch_size(images: int, usual: int) -> int:
    """As usual, or smaller, so that a small folder fills eight batches."""
    return max(1, min(usual, images // 8))


def check_memory(c: ViTConfig, recipe: Recipe, frozen: bool = False) -> None:
    """Raise ValueError if training takes more memory than this machine has, by a low estimate.

    Counted are the weights, their gradients and two momenta, and for a micro-batch the images and
    what each block keeps for the backward pass.
    """
    D, M, (H, W), (rows, cols) = c.hidden_size, c.mlp_size, c.height_width, c.grid
    B, T, L = recipe.batch_size // recipe.accumulate, rows * cols + 1, c.layers
    weights = D * (c.channels * c.patch_size**2 + T + c.classes) + L * D * (4 * D + 2 * M)
    kept = 0 if frozen else (L - 1) * T * (7 * D + 2 * M)
    images = B * (c.channels * H * W + (kept // 2 if recipe.precision == "bf16" else kept))
    needed, there = 4 * ((1 if frozen else 4) * weights + images), memory()
    if needed > there:
        raise ValueError(
            f"training would take more than {needed / 2**30:,.0f} GiB of memory ({weights:,} "
            f"weights; {B} images of {T} tokens at a time), there are {there / 2**30:,.0f}: choose "
            "a smaller model, image or batch, or larger patches"
        )


def memory() -> int:
    """The bytes of memory of the machine, or of its GPU if that has more."""
    gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    if not hasattr(os, "sysconf"):  # Windows does not say
        return sys.maxsize
    return max(gpu, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def model_config(data: Data, shape: dict[str, Any]) -> ViTConfig:
    """A config whose image size, channels and classes are the data's, the rest from `shape`."""
    C, H, W = data.train.images.shape[1:]
    size = H if H == W else (H, W)
    fixed = {"image_size": size, "channels": C, "classes": len(data.classes)}
    return ViTConfig(**(fixed | shape))
