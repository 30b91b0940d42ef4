"""Recipes that chapters and the command line train with: the lesson's numbers and the lab's."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    augmentation: str = "affine"  # or "elastic", "photo"
    cutmix: float = 0.0  # alpha of its Beta distribution; 0: none
    precision: str = "float32"  # or "bf16": mixed precision
    accumulate: int = 1  # micro-batches a step, one after the other where memory is short
    shortcut: bool = False  # the last block works for the class token alone

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("muon_rate", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("average", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if not self.cutmix >= 0:
            raise ValueError(f"cutmix must not be negative, got {self.cutmix}")
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
PHOTOS = replace(
    PLAIN, epochs=200, learning_rate=0.002, warmup=0.05, augmentation="photo", cutmix=1.0,
    label_smoothing=0.1, optimizer="muon", average=0.999,
)  # fmt: skip
FEW_PHOTOS = replace(PHOTOS, epochs=16, learning_rate=0.005, augment=0.5, cutmix=0.0, average=0.99)
PRESETS = {
    "digits": Preset(SMALL, replace(PLAIN, epochs=80, batch_size=64)),
    "mnist": Preset(SMALL, replace(PLAIN, epochs=16)),  # a few minutes on two cores
    "mnist-fast": Preset(SMALL | {"layers": 3}, FAST),  # benchmarks.mnist
    "mnist-p4": Preset(
        SMALL | {"patch_size": 4, "layers": 6}, replace(PLAIN, epochs=24)
    ),  # shipped
    "mnist-best": Preset(FLAT, BEST),  # benchmarks.small_models
    "cifar10": Preset(LITE, PHOTOS),  # for a GPU
    # under a million parameters, in 80 minutes of a core
    "cifar10-small": Preset(LITE | {"layers": 6, "hidden_size": 96, "mlp_size": 192}, FEW_PHOTOS),
}


def model_config(data: Data, shape: dict[str, Any]) -> ViTConfig:
    """A config whose image size, channels and classes are the data's, the rest from `shape`."""
    C, H, W = data.train.images.shape[1:]
    size = H if H == W else (H, W)
    fixed = {"image_size": size, "channels": C, "classes": len(data.classes)}
    return ViTConfig(**(fixed | shape))
