"""Equation 1 of the paper: patches, a class token, and positions."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.patches import patchify
from vit_tutorial.positions import sincos_positions


class PatchEmbedding(nn.Module):
    """Map every patch to a token: x_p E in Equation 1, the same matrix E for all patches."""

    def __init__(self, P: int, C: int, D: int):
        super().__init__()
        self.P = P
        self.projection = nn.Linear(C * P * P, D)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        return self.projection(patchify(images, self.P))


class Embedding(nn.Module):
    """[x_class; x¹E; …; xᴺE] + E_pos (Equation 1): an image becomes T = N + 1 tokens.

    The class token comes first; without it (`class_token=False`) T = N. `positions` are "learned",
    "sincos" (fixed; zero for the class token) or "none". `image_size` is H = W or (H, W).
    Raises ValueError for other positions, and in `forward` for an image of another shape.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        P: int,
        C: int,
        D: int,
        dropout: float = 0.0,
        positions: str = "learned",
        class_token: bool = True,
    ):
        super().__init__()
        if positions not in ("learned", "sincos", "none"):
            raise ValueError(f'positions must be "learned", "sincos" or "none", got {positions!r}')
        H, W = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.image_shape, self.kind = (C, H, W), positions
        self.patches = PatchEmbedding(P, C, D)
        self.class_token = nn.Parameter(torch.zeros(1, 1, D)) if class_token else None
        table = torch.zeros(1, class_token + (H // P) * (W // P), D)
        if positions == "learned":
            self.positions = nn.Parameter(nn.init.normal_(table, std=0.02))
        else:
            self.register_buffer("positions", table, persistent=False)
            self.fix_positions()
            self.register_load_state_dict_post_hook(Embedding.fix_positions)
        self.dropout = nn.Dropout(dropout)

    def fix_positions(self, *_: object) -> None:
        """Make the fixed table: it moves with the module, and is neither trained nor saved.

        So it is made again after loading a state dict.
        """
        H, W = self.image_shape[1:]
        P, table = self.patches.P, torch.zeros(self.positions.shape)
        if self.kind == "sincos":
            patches = sincos_positions(H // P, W // P, table.shape[-1])
            table[0, -len(patches) :] = patches
        table = table.to(self.patches.projection.weight)
        self.register_buffer("positions", table, persistent=False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B T D"]:
        if images.shape[1:] != self.image_shape:
            got = tuple(images.shape[1:])
            raise ValueError(f"expected images of shape (C, H, W) = {self.image_shape}, got {got}")
        tokens = self.patches(images)
        if self.class_token is not None:  # `len(images)` would be a constant in an exported model
            tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), tokens], dim=1)
        return self.dropout(tokens + self.positions)
