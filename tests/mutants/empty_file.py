"""Chapter 16: right styles and mistakes."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_attention_class,
    check_block_class,
    check_embedding_class,
    check_vit_class,
)

RIGHT, WRONG = {}, {}


class Attention(nn.Module):
    scale, axis, over_heads, bias, causal = 0.5, -1, False, True, False

    def __init__(self, D, h):
        super().__init__()
        self.h = h
        self.qkv = nn.Linear(D, 3 * D, bias=self.bias)
        self.projection = nn.Linear(D, D)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.h, D // self.h).unbind(2)
        if not self.over_heads:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-2, -1) / (D // self.h) ** self.scale
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) == 1, -torch.inf)
        y = scores.softmax(self.axis) @ v
        y = y if self.over_heads else y.transpose(1, 2)
        return self.project(y.reshape(B, T, D))

    def project(self, y):
        return self.projection(y)


class FusedAttention(Attention):
    def forward(self, x):
        parts = self.qkv(x).unflatten(-1, (3, self.h, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts)
        return self.projection(y.transpose(1, 2).flatten(2))


RIGHT[check_attention_class] = [Attention, FusedAttention]


def variant(cls, **how):
    """The class with another attribute or method, under its own name."""
    return type(cls.__name__, (cls,), how)


def with_other_names(self, D, h):
    nn.Module.__init__(self)
    self.h, self.qkv, self.proj = h, nn.Linear(D, 3 * D), nn.Linear(D, D)


def with_three_matrices(self, D, h):
    nn.Module.__init__(self)
    self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
    self.projection = nn.Linear(D, D)


def with_more(self, D, h):
    Attention.__init__(self, D, h)
    self.norm = nn.LayerNorm(D)


def without_super(self, D, h):
    self.qkv = nn.Linear(D, 3 * D)


WRONG[check_attention_class] = [
    (variant(Attention, scale=0.0), "not scaled by √d"),
    (variant(Attention, scale=1.0), "scaled by d, not by √d"),
    (variant(Attention, axis=-2), "the wrong axis"),
    (variant(Attention, over_heads=True), "over the heads of one token"),
    (variant(Attention, causal=True), "a causal mask"),
    (variant(Attention, bias=False), "has no qkv.bias"),
    (variant(Attention, project=lambda self, y: y), "the output projection is missing"),
    (
        variant(Attention, project=lambda self, y: self.projection(y.detach())),
        "no gradient reaches",
    ),
    (variant(Attention, __init__=with_other_names), "it has proj.weight"),
    (variant(Attention, __init__=with_three_matrices), "has no qkv.weight"),
    (variant(Attention, __init__=with_more), "norm.weight, norm.bias, which the package has not"),
    (variant(Attention, __init__=without_super), r"Attention stopped with AttributeError"),
    (variant(Attention, forward=lambda self: 0), "takes|positional argument"),
    (variant(Attention, forward=lambda self, x: x + FusedAttention.forward(self, x)), "is added"),
]


class Block(nn.Module):
    attention_class, eps, nonlinearity, post, twice = Attention, 1e-6, nn.GELU, False, False

    def __init__(self, D, h, mlp_size):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=self.eps) for _ in range(2))
        self.attention = self.attention_class(D, h)
        self.mlp = nn.Sequential(
            nn.Linear(D, mlp_size), self.nonlinearity(), nn.Identity(), nn.Linear(mlp_size, D),
            *([nn.GELU()] if self.twice else []),
        )  # fmt: skip

    def forward(self, z):
        if self.post:
            z = self.norm1(z + self.attention(z))
            return self.norm2(z + self.mlp(z))
        z = z + self.attention(self.norm1(z))
        return z + self.mlp(self.norm2(z))


RIGHT[check_block_class] = [
    Block,
    variant(Block, attention_class=FusedAttention, forward=lambda self, z: (
        y := z + self.attention(self.norm1(z))) + self.mlp(self.norm2(y))),
]  # fmt: skip


def in_place(self, z):
    z += self.attention(self.norm1(z))
    z += self.mlp(self.norm2(z))
    return z


WRONG[check_block_class] = [
    (variant(Block, post=True), "this is post-norm"),
    (variant(Block, eps=1e-5), "eps of 1e-5"),
    (variant(Block, nonlinearity=nn.ReLU), "this is a ReLU"),
    (variant(Block, nonlinearity=nn.Identity), "no activation"),
    (variant(Block, nonlinearity=partial(nn.GELU, approximate="tanh")), "tanh approximation"),
    (variant(Block, nonlinearity=nn.Tanh), "values are not"),
    (variant(Block, twice=True), "after the second layer too"),
    (variant(Block, attention_class=variant(Attention, scale=0.0)), "in its attention: .*√d"),
    (variant(Block, attention_class=variant(Attention, axis=-2)), "in its attention: .*axis"),
    (variant(Block, forward=in_place), "writes into its input"),
    (variant(Block, forward=lambda self, z: self.mlp(self.norm2(z + self.attention(
        self.norm1(z))))), "the second residual is missing"),
    (variant(Block, forward=lambda self, z: z + self.attention(self.norm1(z)) + self.mlp(
        self.norm2(z))), "side by side"),
    (variant(Block, forward=lambda self, z: (y := z + self.attention(self.norm2(z)))
             + self.mlp(self.norm1(y))), "norms are mixed up"),
    (variant(Block, forward=lambda self, z: (y := z + self.attention(self.norm1(z)).detach())
             + self.mlp(self.norm2(y))), "no gradient reaches|gradient of"),
]  # fmt: skip


class PatchEmbedding(nn.Module):
    def __init__(self, P, C, D):
        super().__init__()
        self.P, self.projection = P, nn.Linear(C * P * P, D)

    def forward(self, images):
        return self.projection(F.unfold(images, self.P, stride=self.P).transpose(1, 2))


class Embedding(nn.Module):
    cut = PatchEmbedding

    def __init__(self, c):
        super().__init__()
        D, N = c.hidden_size, (c.image_size // c.patch_size) ** 2
        self.patches = self.cut(c.patch_size, c.channels, D)
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(0.02 * torch.randn(1, N + 1, D))

    def forward(self, images):
        first = self.class_token.expand(len(images), -1, -1)
        return torch.cat([first, self.patches(images)], dim=1) + self.positions


class Encoder(nn.Module):
    block_class, last_norm = Block, True

    def __init__(self, c):
        super().__init__()
        sizes = (c.hidden_size, c.heads, c.mlp_size)
        self.blocks = nn.ModuleList(self.block_class(*sizes) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.hidden_size, eps=1e-6)

    def forward(self, z):
        for block in self.blocks:
            z = block(z)
        return self.norm(z) if self.last_norm else z


class ViT(nn.Module):
    embedding_class, encoder_class = Embedding, Encoder

    def __init__(self, config):
        super().__init__()
        self.embedding = self.embedding_class(config)
        self.encoder = self.encoder_class(config)
        self.head = nn.Linear(config.hidden_size, config.classes)

    def forward(self, images):
        return self.head(self.encoder(self.embedding(images))[:, 0])


RIGHT[check_vit_class] = [
    ViT,
    variant(
        ViT, forward=lambda self, images: self.head(self.encoder(self.embedding(images)))[:, 0]
    ),
]


def reading(read):
    def forward(self, images):
        return self.head(read(self.encoder(self.embedding(images))))

    return variant(ViT, forward=forward)


def embedded(forward):
    return variant(ViT, embedding_class=variant(Embedding, forward=forward))


class ColumnsFirst(PatchEmbedding):
    def forward(self, images):
        patches = F.unfold(images.mT.contiguous(), self.P, stride=self.P)
        turned = patches.unflatten(1, (-1, self.P, self.P)).transpose(2, 3).flatten(1, 3)
        return self.projection(turned.transpose(1, 2))


def with_positions_as_a_tensor(self, c):
    Embedding.__init__(self, c)
    places = self.positions.data
    del self.positions
    self.positions = places


class Dropping(ViT):
    def forward(self, images):
        return ViT.forward(self, F.dropout(images, 0.5))


def with_pytorchs_epsilon(self, c):
    Encoder.__init__(self, c)
    self.norm = nn.LayerNorm(c.hidden_size)


WRONG[check_vit_class] = [
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, eps=1e-5))),
     "in its blocks: the norms have PyTorch's eps"),
    (variant(ViT, encoder_class=variant(Encoder, __init__=with_pytorchs_epsilon)),
     "the last norm has PyTorch's eps"),
    (variant(ViT, encoder_class=variant(
        Encoder, block_class=variant(Block, eps=1e-5), __init__=with_pytorchs_epsilon)),
     "the norms have PyTorch's eps"),
    (variant(ViT, encoder_class=variant(Encoder, last_norm=False)), "the last LayerNorm is "
     "missing"),
    (reading(lambda z: z.mean(1)), "the mean over all tokens"),
    (reading(lambda z: z[:, -1]), "the last token is read"),
    (variant(ViT, forward=lambda self, x: ViT.forward(self, x).softmax(-1)),
     "a softmax is applied"),
    (embedded(lambda self, x: torch.cat(
        [self.class_token.expand(len(x), -1, -1), self.patches(x) + self.positions[:, 1:]], 1)),
     "the class token has no position"),
    (embedded(lambda self, x: torch.cat(
        [self.class_token.expand(len(x), -1, -1), self.patches(x)], 1)), "positions are missing"),
    (embedded(lambda self, x: torch.cat([self.class_token, self.patches(x)], 1) + self.positions),
     "expand it to"),
    (embedded(lambda self, x: torch.cat(
        [self.patches(x), self.class_token.expand(len(x), -1, -1)], 1) + self.positions),
     "stands behind the patches"),
    (variant(ViT, embedding_class=variant(Embedding, __init__=with_positions_as_a_tensor)),
     "has no embedding.positions"),
    (variant(ViT, embedding_class=variant(Embedding, cut=ColumnsFirst)), "values are not"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, post=True))),
     "in its blocks: this is post-norm"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, nonlinearity=nn.ReLU))),
     "in its blocks: this is a ReLU"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(
        Block, attention_class=variant(Attention, causal=True)))),
     "in its attention: a causal mask"),
    (Dropping, "values are not"),
    (variant(ViT, forward=lambda self, x: ViT.forward(self, x.detach())), "no gradient reaches"),
]  # fmt: skip


# ---- the embedding


class Embedding1(nn.Module):
    """Patches by unfold; another order of lines than the book's."""

    def __init__(self, side, P, C, D):
        super().__init__()
        self.P = P
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.patches = nn.ModuleDict({"projection": nn.Linear(C * P * P, D)})
        self.positions = nn.Parameter(torch.randn(1, (side // P) ** 2 + 1, D) / 50)

    def cut(self, x):
        return F.unfold(x, self.P, stride=self.P).mT

    def forward(self, x):
        tokens = self.patches["projection"](self.cut(x))
        return torch.cat([self.class_token.repeat(len(x), 1, 1), tokens], 1) + self.positions


class Embedding2(Embedding1):
    """The positions are added to both parts apart."""

    def forward(self, x):
        first = (self.class_token + self.positions[:, :1]).expand(len(x), -1, -1)
        return torch.cat(
            [first, self.patches["projection"](self.cut(x)) + self.positions[:, 1:]], 1
        )


def joined(first, rest):
    """A `forward` that joins what the two give."""
    return lambda self, x: torch.cat(
        [self.class_token.expand(len(x), -1, -1) + first(self),
         self.patches["projection"](self.cut(x)) + rest(self)], 1
    )  # fmt: skip


RIGHT[check_embedding_class] = [Embedding1, Embedding2]
WRONG[check_embedding_class] = [
    (variant(Embedding1, forward=lambda self, x: torch.cat(
        [self.patches["projection"](self.cut(x)), self.class_token.expand(len(x), -1, -1)], 1)
        + self.positions), "comes last"),
    (variant(Embedding1, forward=joined(lambda s: 0, lambda s: 0)), "positions are not added"),
    (variant(Embedding1, forward=joined(lambda s: 0, lambda s: s.positions[:, 1:])),
     "class token has no position"),
    (variant(Embedding1, forward=joined(lambda s: 0, lambda s: s.positions[:, :-1])),
     "before the class token joins"),
    (variant(Embedding1, forward=lambda self, x: self.patches["projection"](self.cut(x))
             + self.positions[:, 1:]), "class token is missing"),
    (variant(Embedding1, cut=lambda self, x: x.reshape(len(x), -1, x.shape[1] * self.P**2)),
     "plain reshape"),
    (variant(Embedding1, cut=lambda self, x: F.unfold(x.mT.contiguous(), self.P, stride=self.P)
             .unflatten(1, (-1, self.P, self.P)).transpose(2, 3).flatten(1, 3).mT),
     "column by column"),
    (variant(Embedding1, forward=lambda self, x: torch.cat(
        [self.class_token, self.patches["projection"](self.cut(x))], 1) + self.positions),
     "must match"),
    (variant(Embedding1, forward=lambda self, x: Embedding1.forward(self, x).detach()),
     "carries no gradient"),
]  # fmt: skip
