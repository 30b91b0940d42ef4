"""The last block works for the class token alone; all blocks may leave out some of the patches."""

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.model import VisionTransformer


class ClassTokenShortcut(nn.Module):
    """The logits and gradients of the model inside, without the last block's unread tokens.

    It shares the model's parameters; under dropout it draws other random numbers. In the last block
    every token is still read (its key and value), but only the class token's query, MLP and norm
    are worked out. Where `kept` is set, in training and evaluation alike, the blocks see only the
    tokens of these numbers (0: the class token), and the logits are no longer the model's.
    """

    kept: Int[Tensor, " _"] | None = None

    def __init__(self, model: VisionTransformer):
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        z, encoder = self.model.embedding(images), self.model.encoder
        z = z if self.kept is None else z[:, self.kept]
        *blocks, last = encoder.blocks
        for block in blocks:
            z = block(z)
        q, k, v = last.attention.split_heads(last.norm1(z))
        read = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(1, 2).flatten(2)
        z = z[:, :1] + last.dropout(last.attention.projection(read))  # Equation 2, one token
        z = z + last.dropout(last.mlp(last.norm2(z)))  # Equation 3
        return self.model.head(encoder.norm(z)[:, 0])


def shortcut(model: nn.Module) -> nn.Module:
    """The model through the shortcut; as it is where its head reads more than a class token.

    A subclass stays as it is too, since it may compute something else.
    """
    if type(model) is VisionTransformer and model.config.pool == "token":
        return ClassTokenShortcut(model)
    return model
