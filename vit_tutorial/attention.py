"""Scaled dot-product attention, one head and many (Appendix A of the paper)."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

# tokens; with fewer, PyTorch's fused CPU kernel is level with the plain products where it was
# recorded (benchmarks/attention_kernel.py) and may be slower elsewhere: so the products it is
FUSED_FROM = 128


def attention_weights(
    q: Float[Tensor, "*heads R d"], k: Float[Tensor, "*heads T d"]
) -> Float[Tensor, "*heads R T"]:
    """softmax(q kᵀ / √d), Equation 6: row t says how much token t reads from every token.

    A row needs one query and all keys, so there may be fewer queries than keys: R of T.
    """
    d = q.shape[-1]
    scores = (q / math.sqrt(d)) @ k.transpose(-2, -1)
    return scores.softmax(dim=-1)


def attend(
    q: Float[Tensor, "*heads R d"], k: Float[Tensor, "*heads T d"], v: Float[Tensor, "*heads T d"]
) -> Float[Tensor, "*heads R d"]:
    """softmax(q kᵀ / √d) v, Equations 6 and 7, by one of two equal ways."""
    if q.device.type == "cpu" and k.shape[-2] < FUSED_FROM:
        return attention_weights(q, k) @ v
    return F.scaled_dot_product_attention(q, k, v)


class MultiHeadSelfAttention(nn.Module):
    """h heads of size d = D/h attend in parallel; their outputs are joined and mixed (Equation 8).

    `weights` shows what each head reads; `forward` never keeps it. Both start from the same q, k.
    Raises ValueError if h does not divide D.
    """

    def __init__(self, D: int, h: int):
        super().__init__()
        if h < 1 or D % h:
            raise ValueError(f"{h} heads do not divide a hidden size of {D}")
        self.h = h
        self.qkv = nn.Linear(D, 3 * D)
        self.projection = nn.Linear(D, D)

    def forward(
        self, x: Float[Tensor, "B T D"], tokens: int | None = None
    ) -> Float[Tensor, "B R D"]:
        """What every token reads (R = T), or only the first R = `tokens` of them."""
        q, k, v = self.split_heads(x)
        read = attend(q[:, :, :tokens], k, v)
        return self.projection(rearrange(read, "B h R d -> B R (h d)"))

    def weights(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B h T T"]:
        """The attention weights of every head."""
        q, k, _ = self.split_heads(x)
        return attention_weights(q, k)

    def split_heads(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "3 B h T d"]:
        """q, k and v of every head, from one product (Equation 5)."""
        return rearrange(self.qkv(x), "B T (qkv h d) -> qkv B h T d", qkv=3, h=self.h)
