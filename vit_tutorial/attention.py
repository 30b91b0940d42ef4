"""Scaled dot-product attention, one head and many (Appendix A of the paper)."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def attention_weights(
    q: Float[Tensor, "*heads T d"], k: Float[Tensor, "*heads T d"]
) -> Float[Tensor, "*heads T T"]:
    """softmax(q kᵀ / √d), Equation 6: row t says how much token t reads from every token.

    Every row sums to 1.
    """
    d = q.shape[-1]
    scores = (q / math.sqrt(d)) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1)


class MultiHeadSelfAttention(nn.Module):
    """MSA: h heads of size d = D/h attend in parallel; their outputs are joined and mixed (Eq. 8).

    `weights` gives the attention weights; `forward` never keeps them. Both use the same q and k.
    Raises ValueError if h does not divide D.
    """

    def __init__(self, D: int, h: int):
        super().__init__()
        if h < 1 or D % h:
            raise ValueError(f"{h} heads do not divide a hidden size of {D}")
        self.h = h
        self.qkv = nn.Linear(D, 3 * D)
        self.projection = nn.Linear(D, D)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.split_heads(x)
        read = F.scaled_dot_product_attention(q, k, v)  # softmax(q kᵀ / √d) v, Equations 6 and 7
        return self.projection(rearrange(read, "B h T d -> B T (h d)"))

    def weights(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B h T T"]:
        """The attention weights of every head."""
        q, k, _ = self.split_heads(x)
        return attention_weights(q, k)

    def split_heads(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "3 B h T d"]:
        """q, k and v of every head, from one product (Equation 5)."""
        return rearrange(self.qkv(x), "B T (qkv h d) -> qkv B h T d", qkv=3, h=self.h)
