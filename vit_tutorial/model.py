"""The Vision Transformer of Dosovitskiy et al., 2021 (https://arxiv.org/abs/2010.11929)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.embedding import Embedding
from vit_tutorial.encoder import Encoder
from vit_tutorial.errors import unknown


@dataclass(frozen=True)
class ViTConfig:
    """Every number that fixes the shape of a model, named as in Table 1 of the paper.

    Raises ValueError where two numbers do not fit together. `classes=0` builds a model without a
    head, whose `forward` gives features; `representation_size` puts a tanh layer before the head.
    """

    image_size: int | tuple[int, int] = 224  # H = W, or (H, W)
    patch_size: int = 16  # P
    channels: int = 3  # C
    classes: int = 1000  # K
    layers: int = 12  # L
    hidden_size: int = 768  # D
    mlp_size: int = 3072
    heads: int = 12  # h
    dropout: float = 0.0
    positions: str = "learned"  # or "sincos", "none"
    pool: str = "token"  # or "mean": no class token, the head reads the mean over all tokens
    representation_size: int | None = None
    epsilon: float = 1e-6  # of every LayerNorm
    gelu: str = "exact"  # or "tanh", the approximation in the authors' code

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W), in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, cols) of patches."""
        H, W = self.height_width
        return H // self.patch_size, W // self.patch_size


CHOICES = {
    "positions": ("learned", "sincos", "none"),
    "pool": ("token", "mean"),
    "gelu": ("exact", "tanh"),
}


def check_config(c: ViTConfig) -> None:
    """Raise ValueError, with both numbers, where two of a config's numbers do not fit together."""
    D, K, (H, W) = c.hidden_size, c.classes, c.height_width
    names = ("patch_size", "channels", "layers", "hidden_size", "mlp_size", "heads")
    sizes = {name: getattr(c, name) for name in (*names, "representation_size")}
    for name, value in {"image_size": min(H, W), **sizes}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, known in CHOICES.items():
        if getattr(c, name) not in known:
            raise unknown(name, getattr(c, name), known)
    if H % c.patch_size or W % c.patch_size:
        raise ValueError(f"patch_size {c.patch_size} does not divide image_size {H} x {W}")
    if D % c.heads:
        raise ValueError(f"{c.heads} heads do not divide hidden_size {D}")
    if c.positions == "sincos" and (D % 4 or D < 8):
        raise ValueError(f"sincos needs hidden_size to be a multiple of 4 from 8 on, got {D}")
    if not 0 <= c.dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {c.dropout}")
    if not 0 < c.epsilon < 1:
        raise ValueError(f"epsilon must lie between 0 and 1, got {c.epsilon}")
    if K < 0 or (not K and c.representation_size):
        raise ValueError(
            f"classes={K} with representation_size={c.representation_size}: "
            "expected at least one class, or 0 and no representation"
        )


class VisionTransformer(nn.Module):
    """An image in, one score (logit) for each class out."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        c = self.config = config
        self.embedding = Embedding(
            c.image_size, c.patch_size, c.channels, c.hidden_size, c.dropout,
            positions=c.positions, class_token=c.pool == "token",
        )  # fmt: skip
        self.encoder = Encoder(
            c.layers, c.hidden_size, c.heads, c.mlp_size, c.dropout, c.epsilon, c.gelu
        )
        self.head = make_head(c)
        initialise(self)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.features(images))

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D"]:
        """What the head reads: the class token after the last norm (Equation 4), or the mean."""
        z = self.encoder(self.embedding(images))
        return z[:, 0] if self.config.pool == "token" else z.mean(dim=1)

    @torch.no_grad()
    def attention_maps(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L h T T"]:
        """The attention weights of every block and head; computed only when asked for."""
        return self.encoder.attention_maps(self.embedding(images))


def make_head(c: ViTConfig) -> nn.Module:
    """One linear layer, or an MLP with a tanh layer as in the paper's pre-training, or nothing."""
    if c.classes == 0:
        return nn.Identity()
    if c.representation_size is None:
        return nn.Linear(c.hidden_size, c.classes)
    hidden = nn.Linear(c.hidden_size, c.representation_size)
    return nn.Sequential(hidden, nn.Tanh(), nn.Linear(c.representation_size, c.classes))


def initialise(model: VisionTransformer) -> None:
    """The authors' initial weights; positions and class token have theirs from `Embedding`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
            # q, k and v are packed in one matrix, but each is drawn as a D x D matrix of its own
            for matrix in module.weight.chunk(3 if name.endswith("qkv") else 1):
                nn.init.xavier_uniform_(matrix)
            if ".mlp." in name:
                nn.init.normal_(module.bias, std=1e-6)
    lecun_normal_(model.embedding.patches.projection.weight)
    if model.config.classes:
        last = [module for module in model.head.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)  # at first every class is as likely


def lecun_normal_(weight: Float[Tensor, "out fan_in"]) -> None:
    """Fill with a normal of variance 1/fan_in, cut off at two standard deviations."""
    std = math.sqrt(1 / weight.shape[1]) / 0.8796256610342398  # the cut narrows it: make up for it
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


SIZES: dict[str, dict[str, int]] = {  # Table 1; Ti and S: DeiT (https://arxiv.org/abs/2012.12877)
    "Ti": {"layers": 12, "hidden_size": 192, "mlp_size": 768, "heads": 3},
    "S": {"layers": 12, "hidden_size": 384, "mlp_size": 1536, "heads": 6},
    "B": {"layers": 12, "hidden_size": 768, "mlp_size": 3072, "heads": 12},
    "L": {"layers": 24, "hidden_size": 1024, "mlp_size": 4096, "heads": 16},
    "H": {"layers": 32, "hidden_size": 1280, "mlp_size": 5120, "heads": 16},
}
VARIANTS = ("Ti/16", "S/16", "B/16", "B/32", "L/16", "H/14")


def variant(name: str, **overrides: Any) -> ViTConfig:
    """The sizes of a published model by name: `variant("B/16", classes=10)`."""
    if name not in VARIANTS:
        raise unknown("variant", name, VARIANTS)
    size, patch_size = name.split("/")
    return ViTConfig(**{**SIZES[size], "patch_size": int(patch_size), **overrides})
