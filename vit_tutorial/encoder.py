"""The Transformer encoder: L blocks of attention and MLP around a residual stream."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vit_tutorial.attention import MultiHeadSelfAttention

EPSILON = 1e-6  # the authors' value for LayerNorm; PyTorch's default is 1e-5


class MLP(nn.Sequential):
    """Two linear layers with a GELU between them, applied to every token alone."""

    def __init__(self, D: int, mlp_size: int, dropout: float = 0.0, gelu: str = "exact"):
        super().__init__(
            nn.Linear(D, mlp_size),
            nn.GELU(approximate="none" if gelu == "exact" else gelu),
            nn.Dropout(dropout),
            nn.Linear(mlp_size, D),
        )


class EncoderBlock(nn.Module):
    """Equations 2 and 3: normalise, transform, add; first across tokens, then within each."""

    def __init__(
        self, D: int, h: int, mlp_size: int, dropout: float = 0.0,
        epsilon: float = EPSILON, gelu: str = "exact",
    ):  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(D, eps=epsilon)
        self.attention = MultiHeadSelfAttention(D, h)
        self.norm2 = nn.LayerNorm(D, eps=epsilon)
        self.mlp = MLP(D, mlp_size, dropout, gelu)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        z = z + self.dropout(self.attention(self.norm1(z)))  # Equation 2
        return z + self.dropout(self.mlp(self.norm2(z)))  # Equation 3


class Encoder(nn.Module):
    """L blocks and a final LayerNorm (Equation 4), over all tokens."""

    def __init__(
        self, L: int, D: int, h: int, mlp_size: int, dropout: float = 0.0,
        epsilon: float = EPSILON, gelu: str = "exact",
    ):  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(D, h, mlp_size, dropout, epsilon, gelu) for _ in range(L)
        )
        self.norm = nn.LayerNorm(D, eps=epsilon)

    def forward(self, z: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        for block in self.blocks:
            z = block(z)
        return self.norm(z)

    def attention_maps(self, z: Float[Tensor, "B T D"]) -> Float[Tensor, "B L h T T"]:
        """The attention weights of every block and head, on the same path as `forward`."""
        maps = []
        for block in self.blocks:
            maps.append(block.attention.weights(block.norm1(z)))
            z = block(z)
        return torch.stack(maps, dim=1)
