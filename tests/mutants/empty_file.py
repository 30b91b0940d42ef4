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
    scale, axis, over_heads, bias, causal, after = 0.5, -1, False, True, False, False
    rate = 0.0

    def __init__(self, D, h):
        super().__init__()
        self.h = h
        self.qkv = nn.Linear(D, 3 * D, bias=self.bias)
        self.projection = nn.Linear(D, D)

    def split(self, x):
        B, T, D = x.shape
        parts = self.qkv(x).view(B, T, 3, self.h, D // self.h).unbind(2)
        return parts if self.over_heads else tuple(part.transpose(1, 2) for part in parts)

    def read(self, q, k, v):
        scale = q.shape[-1] ** self.scale
        scores = q @ k.transpose(-2, -1) / (1 if self.after else scale)
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) == 1, -torch.inf)
        weights = F.dropout(scores.softmax(self.axis), self.rate, self.training)
        return weights / (scale if self.after else 1) @ v

    def forward(self, x):
        y = self.read(*self.split(x))
        y = y if self.over_heads else y.transpose(1, 2)
        return self.project(y.reshape(x.shape))

    def project(self, y):
        return self.projection(y)


class FusedAttention(Attention):
    def forward(self, x):
        parts = self.qkv(x).unflatten(-1, (3, self.h, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts)
        return self.projection(y.transpose(1, 2).flatten(2))


class SummedAttention(Attention):
    """Head by head; the projection in pieces that are added."""

    def forward(self, x):
        d, total = x.shape[-1] // self.h, self.projection.bias
        for q, k, v, out in zip(*(part.split(d, dim=-1) for part in self.qkv(x).chunk(3, dim=-1)),
                                self.projection.weight.split(d, dim=1), strict=True):  # fmt: skip
            scores = torch.einsum("btd,bsd->bts", q, k) * d**-0.5
            total = total + scores.exp() / scores.exp().sum(-1, keepdim=True) @ v @ out.T
        return total


RIGHT[check_attention_class] = [Attention, FusedAttention, SummedAttention]


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
    (variant(Attention, scale=-0.5), "multiplied by √d"),
    (variant(Attention, after=True), "the scale comes after the softmax"),
    (variant(Attention, axis=-2), "the wrong axis, the queries"),
    (variant(Attention, axis=1), "the wrong axis, the heads"),
    (variant(Attention, axis=0), "the wrong axis, the images"),
    (
        variant(
            Attention,
            split=lambda self, x: tuple(
                part.reshape(len(x), self.h, x.shape[1], -1) for part in self.qkv(x).chunk(3, -1)
            ),
        ),
        "a reshape straight to .B, h, T, d",
    ),
    (
        variant(
            Attention,
            forward=lambda self, x: self.projection(self.read(*self.split(x)).reshape(x.shape)),
        ),
        "without moving T back",
    ),
    (
        variant(
            Attention,
            forward=lambda self, x: self.projection(
                self.read(*self.split(x)).permute(0, 2, 3, 1).reshape(x.shape)
            ),
        ),
        "joined as .d h",
    ),
    (
        variant(
            Attention,
            split=lambda self, x: tuple(
                part.transpose(1, 2)
                for part in self.qkv(x).unflatten(-1, (self.h, 3, -1)).unbind(3)
            ),
        ),
        "packed .3 h d",
    ),
    (
        variant(
            Attention,
            split=lambda self, x: tuple(
                part.permute(0, 3, 1, 2)
                for part in self.qkv(x).unflatten(-1, (3, -1, self.h)).unbind(2)
            ),
        ),
        "within D the heads come first",
    ),
    (
        variant(Attention, read=lambda self, q, k, v: q @ k.mT / q.shape[-1] ** 0.5 @ v),
        "the softmax is missing",
    ),
    (variant(Attention, read=lambda self, q, k, v: Attention.read(self, q, k, k)), "k is read"),
    (
        variant(Attention, read=lambda self, q, k, v: Attention.read(self, k, q, v)),
        "the keys were taken for the queries",
    ),
    (
        variant(
            Attention, read=lambda self, q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).mT @ v
        ),
        "transposed before they meet v",
    ),
    (
        variant(
            Attention,
            read=lambda self, q, k, v: Attention.read(
                self, q * (q.shape[-1] / q.shape[-2]) ** 0.5, k, v
            ),
        ),
        "scaled by √T",
    ),
    (
        variant(Attention, read=lambda self, q, k, v: Attention.read(self, q / self.h**0.5, k, v)),
        "scaled by √D",
    ),
    (
        variant(Attention, project=lambda self, y: F.linear(y, self.projection.weight)),
        "bias of the projection is not used",
    ),
    (variant(Attention, rate=0.1), "attention has none of its own"),
    (
        variant(
            Attention, project=lambda self, y: F.dropout(self.projection(y), 0.2, self.training)
        ),
        "attention has none of its own",
    ),
    (
        variant(Attention, project=lambda self, y: F.dropout(self.projection(y), 0.2)),
        "active in eval mode",
    ),
    (
        variant(
            Attention, project=lambda self, y: self.projection(y) * (2 if self.training else 1)
        ),
        "other values than in eval mode",
    ),
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
    inner = None  # the rate inside the MLP, if another

    def __init__(self, D, h, mlp_size, dropout=0.0):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=self.eps) for _ in range(2))
        self.attention = self.attention_class(D, h)
        self.mlp = nn.Sequential(
            nn.Linear(D, mlp_size), self.nonlinearity(),
            nn.Dropout(dropout if self.inner is None else self.inner), nn.Linear(mlp_size, D),
            *([nn.GELU()] if self.twice else []),
        )  # fmt: skip
        self.drop = nn.Dropout(dropout)

    def forward(self, z):
        if self.post:
            z = self.norm1(z + self.drop(self.attention(z)))
            return self.norm2(z + self.drop(self.mlp(z)))
        z = z + self.drop(self.attention(self.norm1(z)))
        return z + self.drop(self.mlp(self.norm2(z)))


class FunctionalBlock(nn.Module):
    """Dropout as a function, in place, and the block's halves in functions of their own."""

    def __init__(self, width, heads, mlp_size, p=0.0):
        super().__init__()
        self.p = p
        self.norm1 = nn.LayerNorm(width, 1e-6)
        self.attention = FusedAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-6)
        self.mlp = nn.ModuleDict({"0": nn.Linear(width, mlp_size), "3": nn.Linear(mlp_size, width)})

    def drop(self, x):
        return F.dropout(x, self.p, training=self.training, inplace=True)

    def read(self, z):
        return z + self.drop(self.attention(self.norm1(z)))

    def think(self, z):
        y = F.gelu(self.mlp["0"](self.norm2(z)))
        return self.drop(self.mlp["3"](self.drop(y))) + z

    def forward(self, z):
        return self.think(self.read(z))


class ByHand(nn.Module):
    """Dropout in the reader's own words."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand_like(x) >= self.p) / (1 - self.p)


class BlockByHand(Block):
    def __init__(self, D, h, mlp_size, dropout=0.0):
        super().__init__(D, h, mlp_size)
        self.drop = self.mlp[2] = ByHand(dropout)


RIGHT[check_block_class] = [
    Block,
    FunctionalBlock,
    BlockByHand,
    variant(Block, attention_class=FusedAttention, forward=lambda self, z: (
        y := z + self.drop(self.attention(self.norm1(z)))) + self.drop(self.mlp(self.norm2(y)))),
]  # fmt: skip


def with_one_epsilon(self, D, h, mlp_size, dropout=0.0):
    Block.__init__(self, D, h, mlp_size, dropout)
    self.norm2 = nn.LayerNorm(D)


def without_the_mlps_dropout(self, D, h, mlp_size, dropout=0.0):
    Block.__init__(self, D, h, mlp_size, dropout)
    del self.mlp[2]


def without_a_rate(self, D, h, mlp_size):
    Block.__init__(self, D, h, mlp_size)


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
    (variant(Block, nonlinearity=nn.Tanh), "this is a tanh"),
    (variant(Block, nonlinearity=nn.SiLU), "this is a SiLU"),
    (variant(Block, nonlinearity=nn.Softplus), "values are not"),
    (variant(Block, twice=True), "after the second layer too"),
    (variant(Block, attention_class=variant(Attention, scale=0.0)), "in its attention: .*√d"),
    (variant(Block, attention_class=variant(Attention, axis=-2)), "in its attention: .*axis"),
    (variant(Block, forward=in_place), "writes into its input"),
    (variant(Block, __init__=with_one_epsilon), "norm2 has PyTorch's eps"),
    (variant(Block, __init__=without_the_mlps_dropout), "and the dropout number 2"),
    (variant(Block, attention_class=variant(Attention, after=True)),
     "in its attention: the scale comes after"),
    (variant(Block, __init__=without_a_rate), "4 positional arguments"),
    (variant(Block, drop=lambda self, x: x, inner=0.0), "drops nothing in training mode"),
    (variant(Block, inner=0.0), "missing inside the MLP, after GELU"),
    (variant(Block, inner=0.1), "it drops with 0.1: hand the rate on"),
    (variant(Block, forward=lambda self, z: (y := z + self.attention(self.norm1(z)))
             + self.drop(self.mlp(self.norm2(y)))), "missing on the output of attention"),
    (variant(Block, forward=lambda self, z: (y := z + self.drop(self.attention(self.norm1(z))))
             + self.mlp(self.norm2(y))), "missing on the output of the MLP"),
    (variant(Block, forward=lambda self, z: (y := z + self.attention(self.norm1(z)))
             + self.mlp(self.norm2(y))),
     "missing on the output of attention.*on the output of the MLP"),
    (variant(Block, forward=lambda self, z: self.drop((y := self.drop(
        z + self.attention(self.norm1(z)))) + self.mlp(self.norm2(y)))), "stands on the stream"),
    (variant(Block, forward=lambda self, z: self.drop((y := z + self.drop(
        self.attention(self.norm1(z)))) + self.drop(self.mlp(self.norm2(y))))),
     "there is dropout on what the block gives back too"),
    (variant(Block, forward=lambda self, z: (y := z + self.attention(self.drop(self.norm1(z))))
             + self.mlp(self.drop(self.norm2(y)))), "stands on what the norms give; it belongs"),
    (variant(Block, forward=lambda self, z: (y := z + self.drop(self.attention(self.norm1(z))))
             + self.drop(self.drop(self.mlp(self.norm2(y))))),
     "runs twice on the output of the MLP"),
    (variant(Block, drop=lambda self, x: F.dropout(x, 0.1)), "active in eval mode"),
    (variant(Block, drop=lambda self, x: F.dropout(x, self.mlp[2].p)), "active in eval mode"),
    (variant(Block, drop=lambda self, x: F.dropout1d(x, self.mlp[2].p, self.training)),
     "drops whole rows or channels"),
    (variant(Block, attention_class=variant(Attention, rate=0.1)), "drops with 0.1"),
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
    cut, rate = PatchEmbedding, None

    def __init__(self, c):
        super().__init__()
        D, N = c.hidden_size, (c.image_size // c.patch_size) ** 2
        self.patches = self.cut(c.patch_size, c.channels, D)
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.positions = nn.Parameter(0.02 * torch.randn(1, N + 1, D))
        self.drop = nn.Dropout(c.dropout if self.rate is None else self.rate)

    def forward(self, images):
        first = self.class_token.expand(len(images), -1, -1)
        return self.drop(torch.cat([first, self.patches(images)], dim=1) + self.positions)


class Encoder(nn.Module):
    block_class, last_norm, rate = Block, True, None

    def __init__(self, c):
        super().__init__()
        sizes = (c.hidden_size, c.heads, c.mlp_size, c.dropout if self.rate is None else self.rate)
        self.blocks = nn.ModuleList(self.block_class(*sizes) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.hidden_size, eps=1e-6)

    def forward(self, z):
        for block in self.blocks:
            z = block(z)
        return self.norm(z) if self.last_norm else z


class Sequence(nn.Sequential):
    """An encoder that needs no forward."""

    def __init__(self, c):
        super().__init__()
        blocks = [FunctionalBlock(c.hidden_size, c.heads, c.mlp_size, c.dropout)
                  for _ in range(c.layers)]  # fmt: skip
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(c.hidden_size, 1e-6)


class ViT(nn.Module):
    embedding_class, encoder_class = Embedding, Encoder

    def __init__(self, config):
        super().__init__()
        self.embedding = self.embedding_class(config)
        self.encoder = self.encoder_class(config)
        self.head = nn.Linear(config.hidden_size, config.classes)
        self.first_weights()

    def first_weights(self, whole_qkv=False):
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
                whole = whole_qkv or not name.endswith("qkv")
                for matrix in module.weight.chunk(1 if whole else 3):
                    nn.init.xavier_normal_(matrix)
        weight = self.embedding.patches.projection.weight
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        nn.init.zeros_(self.head.weight)

    def forward(self, images):
        return self.head(self.encoder(self.embedding(images))[:, 0])


RIGHT[check_vit_class] = [
    ViT,
    variant(
        ViT, forward=lambda self, images: self.head(self.encoder(self.embedding(images)))[:, 0]
    ),
    variant(ViT, encoder_class=Sequence),
]


def reading(read):
    def forward(self, images):
        return self.head(read(self.encoder(self.embedding(images))))

    return variant(ViT, forward=forward)


def embedded(forward):
    return variant(ViT, embedding_class=variant(Embedding, forward=forward))


def encoded(forward):
    return variant(ViT, encoder_class=variant(Encoder, forward=forward))


def with_blocks_in_a_list(self, c):
    Encoder.__init__(self, c)
    blocks = list(self.blocks)
    del self.blocks
    self.blocks = blocks


def with_a_row_too_few(self, c):
    Embedding.__init__(self, c)
    self.positions = nn.Parameter(self.positions.data[:, 1:])


def walk(order):
    def forward(self, z):
        for block in list(self.blocks)[order]:
            z = block(z)
        return self.norm(z)

    return forward


def every_block_reads_the_input(self, z):
    for block in self.blocks:
        y = block(z)
    return self.norm(y)


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
    (variant(ViT, embedding_class=variant(Embedding, __init__=with_positions_as_a_tensor)),
     "positions is a plain tensor"),
    (variant(ViT, embedding_class=variant(Embedding, __init__=with_a_row_too_few)),
     "one row for each of the T"),
    (variant(ViT, encoder_class=variant(Encoder, __init__=with_blocks_in_a_list)),
     "blocks are a Python list"),
    (encoded(walk(slice(1))), "only one block ran"),
    (encoded(walk(slice(-1))), "the last block does not run"),
    (encoded(walk(slice(None, None, -1))), "from the last to the first"),
    (encoded(every_block_reads_the_input), "each block reads the encoder's input"),
    (variant(ViT, embedding_class=variant(Embedding, cut=ColumnsFirst)),
     "in its embedding: patches come column by column"),
    (embedded(lambda self, x: torch.cat([self.class_token.expand(len(x), -1, -1), self.patches(x)
                                         + self.positions[:, :-1]], 1)), "no position"),
    (variant(ViT, encoder_class=variant(Encoder, rate=0.0)), "missing on the output of attention"),
    (variant(ViT, embedding_class=variant(Embedding, rate=0.0)),
     "missing after the positions are added"),
    (variant(ViT, embedding_class=variant(Embedding, rate=0.1)), "it drops with 0.1"),
    (variant(ViT, encoder_class=variant(Encoder, rate=0.0), embedding_class=variant(
        Embedding, rate=0.0)), "drops nothing in training mode"),
    (embedded(lambda self, x: torch.cat([self.class_token.expand(len(x), -1, -1), self.drop(
        self.patches(x))], 1) + self.positions), "stands on the patch tokens"),
    (embedded(lambda self, x: self.drop(torch.cat(
        [self.class_token.expand(len(x), -1, -1), self.patches(x)], 1)) + self.positions),
     "stands before the positions are added; it belongs after"),
    (variant(ViT, forward=lambda self, x: self.head(self.embedding.drop(
        self.encoder(self.embedding(x))[:, 0]))), "there is dropout before the head too"),
    (variant(ViT, forward=lambda self, x: ViT.forward(self, self.embedding.drop(x))),
     "there is dropout on the pixels too"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, forward=lambda self, z:
        self.drop((y := self.drop(z + self.attention(self.norm1(z)))) + self.mlp(self.norm2(y)))))),
     "stands on the stream after the addition"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, post=True))),
     "in its blocks: this is post-norm"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(Block, nonlinearity=nn.ReLU))),
     "in its blocks: this is a ReLU"),
    (variant(ViT, encoder_class=variant(Encoder, block_class=variant(
        Block, attention_class=variant(Attention, causal=True)))),
     "in its attention: a causal mask"),
    (Dropping, "active in eval mode"),
    (variant(ViT, forward=lambda self, x: ViT.forward(self, x.detach())), "no gradient reaches"),
]  # fmt: skip


# ---- the embedding


class Embedding1(nn.Module):
    """Patches by unfold; another order of lines than the book's."""

    def __init__(self, side, P, C, D, dropout=0.0):
        super().__init__()
        self.P = P
        self.class_token = nn.Parameter(torch.zeros(1, 1, D))
        self.patches = nn.ModuleDict({"projection": nn.Linear(C * P * P, D)})
        self.positions = nn.Parameter(torch.randn(1, (side // P) ** 2 + 1, D) / 50)
        self.drop = nn.Dropout(dropout)

    def cut(self, x):
        return F.unfold(x, self.P, stride=self.P).mT

    def forward(self, x):
        tokens = self.patches["projection"](self.cut(x))
        return self.drop(
            torch.cat([self.class_token.repeat(len(x), 1, 1), tokens], 1) + self.positions
        )


class Embedding2(Embedding1):
    """The positions are added to both parts apart, and each is dropped."""

    def forward(self, x):
        first = (self.class_token + self.positions[:, :1]).expand(len(x), -1, -1)
        rest = self.patches["projection"](self.cut(x)) + self.positions[:, 1:]
        return torch.cat([self.drop(first), self.drop(rest)], 1)


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
    (variant(Embedding1, cut=lambda self, x: F.unfold(x.mT.contiguous(), self.P, stride=self.P).mT),
     "the image is transposed"),
    (variant(Embedding1, forward=joined(lambda s: s.positions[:, :1],
                                 lambda s: s.positions[:, 1:])),
     "drops nothing in training mode"),
    (variant(Embedding1, __init__=lambda self, side, P, C, D, dropout=0.0: Embedding1.__init__(
        self, side, P, C, D, 0.1)), "drops with 0.1"),
    (variant(Embedding1, forward=lambda self, x: torch.cat(
        [self.class_token.expand(len(x), -1, -1), self.patches["projection"](self.cut(x))], 1)
        + self.drop(self.positions)), "stands on the positions; it belongs after"),
    (variant(Embedding1, __init__=lambda self, side, P, C, D: Embedding1.__init__(
        self, side, P, C, D)), "positional arguments"),
]  # fmt: skip


def starting(cls, change):
    """The class with something done at the end of its __init__."""

    def begin(self, *sizes, **more):
        cls.__init__(self, *sizes, **more)
        change(self)

    return variant(cls, __init__=begin)


def as_buffer(name):
    def change(self):
        value = getattr(self, name).data
        delattr(self, name)
        self.register_buffer(name, value)

    return change


WRONG[check_embedding_class] += [
    (starting(Embedding1, as_buffer("positions")), "positions is a buffer, .* never trained"),
    (starting(Embedding1, as_buffer("class_token")), "class_token is a buffer, .* never trained"),
    (starting(Embedding1, lambda self: self.positions.requires_grad_(False)),
     "positions has requires_grad=False"),
    (starting(Embedding1, lambda self: nn.init.normal_(self.class_token)),
     "class_token has a mean of .* should start as 0"),
    (starting(Embedding1, lambda self: nn.init.normal_(self.positions)),
     "positions has a mean of .* should have 0 and 0.02"),
    (starting(Embedding1, lambda self: nn.init.zeros_(self.positions)), "have 0 and 0.02"),
    (starting(Embedding1, lambda self: nn.init.constant_(self.positions, 0.02)), "have 0 and 0.02"),
]  # fmt: skip
WRONG[check_vit_class] += [
    (starting(ViT, lambda self: as_buffer("positions")(self.embedding)),
     "embedding.positions is a buffer"),
    (starting(ViT, lambda self: self.requires_grad_(False)), "requires_grad=False"),
    (variant(ViT, first_weights=lambda self: None), "call authors_weights"),
    (variant(ViT, first_weights=lambda self: ViT.first_weights(self, whole_qkv=True)),
     "qkv.weight has a mean .* call authors_weights"),
    (starting(ViT, lambda self: nn.init.normal_(self.head.weight)), "head.weight .* start as 0"),
    (starting(ViT, lambda self: nn.init.normal_(self.embedding.positions)),
     "positions .* have 0 and 0.02"),
]  # fmt: skip


def shifting_in_place(self, z):
    z += 1
    return Attention.forward(self, z - 1)


WRONG[check_attention_class] += [
    (variant(Attention, forward=shifting_in_place), "writes into its input `z`"),
    (starting(Attention, lambda self: self.qkv.bias.requires_grad_(False)),
     "qkv.bias has requires_grad=False"),
]  # fmt: skip


def sharing_a_norm(self, D, h, mlp_size, dropout=0.0):
    Block.__init__(self, D, h, mlp_size, dropout)
    self.norm2 = self.norm1


def sharing_a_block(self, c):
    Encoder.__init__(self, c)
    self.blocks = nn.ModuleList([self.blocks[0]] * c.layers)


def normed_after_every_block(self, z):
    for block in self.blocks:
        z = self.norm(block(z))
    return z


def around_every_block(self, z):
    for block in self.blocks:
        z = z + block(z)
    return self.norm(z)


def returning_too_soon(self, z):
    for block in self.blocks:
        return self.norm(block(z))
    return z


WRONG[check_block_class] += [
    (variant(Block, __init__=sharing_a_norm), "one and the same tensor"),
    (variant(Block, __init__=lambda self, D, h, mlp_size, dropout=0.0: Block.__init__(
        self, D, h, 4 * D, dropout)), "From D to mlp_size"),
]  # fmt: skip
WRONG[check_vit_class] += [
    (variant(ViT, encoder_class=variant(Encoder, __init__=sharing_a_block)), "one block L times"),
    (encoded(normed_after_every_block), "after every block"),
    (encoded(around_every_block), "a residual goes round each block"),
    (encoded(returning_too_soon), "is a return inside the loop"),
    (encoded(lambda self, z: [block(z) for block in self.blocks] and self.norm(z)),
     "is not kept: z = block"),
    (variant(ViT, forward=lambda self, x: self.head(self.encoder(self.embedding(x))[:, 0])
             .squeeze()), "expected .1, 3"),
    (variant(ViT, __init__=lambda self, image_size, patch_size: None), "MyViT|ViT.config"),
]  # fmt: skip
WRONG[check_attention_class] += [
    (variant(Attention, split=lambda self, x: self.qkv(x).reshape(
        3, len(x), self.h, x.shape[1], -1).unbind(0)), "straight into three parts"),
    (variant(Attention, split=lambda self, x: self.qkv(x).reshape(
        len(x), self.h, x.shape[1], -1).chunk(3, -1)), "straight into|values are not"),
    (variant(Attention, read=lambda self, q, k, v: (q @ k.T).softmax(-1) @ v), "swaps the last"),
    (variant(Attention, __init__=lambda self, D, h: Attention.__init__(self, D - D % 5, h)),
     "from D to 3D"),
]  # fmt: skip
WRONG[check_embedding_class] += [
    (variant(Embedding1, forward=lambda self, x: torch.cat([self.class_token.expand(
        len(x), -1, -1), self.patches["projection"](self.cut(x)) + self.positions], 1)),
     "does the class token join before"),
    (variant(Embedding1, forward=lambda self, x: torch.cat([self.class_token.expand(
        len(x), -1, -1), self.patches["projection"](self.cut(x))], 2)), "joined along axis 1"),
]  # fmt: skip
