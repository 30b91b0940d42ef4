"""A tiny data set and a tiny model, which tests of training share."""

from dataclasses import replace

import torch

from vit_tutorial.data import Data, Split
from vit_tutorial.model import VisionTransformer, ViTConfig

K = 4
PER_EPOCH = 5  # batches of 8


def split(M, seed):
    """One of four pictures each, under noise: easy, but not trivial."""
    drawn = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 120, (K, 1, 8, 8), generator=torch.Generator().manual_seed(42))
    labels = torch.randint(K, (M,), generator=drawn)
    images = pictures[labels] + torch.randint(0, 120, (M, 1, 8, 8), generator=drawn)
    return Split(images.byte(), labels, torch.tensor([0.47]), torch.tensor([0.19]))


DATA = Data("pictures", split(40, 0), split(20, 1), split(20, 2), list("abcd"))
ENOUGH = replace(DATA, train=split(800, 0))  # to learn the pictures from, whatever the noise


def model(dropout=0.0, classes=K, seed=0, **changes):
    torch.manual_seed(seed)
    shape = dict(layers=1, hidden_size=16, mlp_size=16, heads=2, dropout=dropout)
    return VisionTransformer(ViTConfig(8, 4, 1, classes, **(shape | changes)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def figures(epochs):
    """What a history says, but for how long it took."""
    return [(e.number, e.train_loss, e.val_loss, e.val_accuracy) for e in epochs]


def weights(of):
    return torch.cat([value.flatten() for value in of.state_dict().values()])


def batch():
    return DATA.train.normalise(DATA.train.images[:8].float() / 255), DATA.train.labels[:8]
