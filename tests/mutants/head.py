"""Chapter 07: right styles and mistakes."""

from functools import partial

import torch
from mutants.class_token import cat
from torch.nn import functional as F

from vit_tutorial.attention import MultiHeadSelfAttention
from vit_tutorial.checks import (
    check_cross_entropy,
    check_forward,
    check_growth,
    check_masked_logits,
)

RIGHT, WRONG = {}, {}
# ---- the whole model


def logits_piece_by_piece(images, model):
    e = model.embedding
    z = cat(e.class_token, e.patches(images)) + e.positions
    for block in model.encoder.blocks:
        z = block(z)
    return model.head(model.encoder.norm(z)[:, 0])


def logits_of_each_image(images, model):
    return torch.vstack([model.head(model.features(image[None])) for image in images])


RIGHT[check_forward] = [logits_piece_by_piece, logits_of_each_image]


def walk(images, model, embed=None, norm=True, read=lambda z: z[:, 0], blocks=None):
    """Every step written out, with places to go wrong."""
    e = model.embedding
    z = embed(images, e) if embed else cat(e.class_token, e.patches(images)) + e.positions
    some = isinstance(blocks, int)
    for block in model.encoder.blocks[:blocks] if some else blocks or model.encoder.blocks:
        z = block(z)
    return model.head(read(model.encoder.norm(z) if norm else z))


def without_a_place(x, e):
    return cat(e.class_token, e.patches(x) + e.positions[:, 1:])


def behind_the_patches(x, e):
    return cat(e.patches(x), e.class_token) + e.positions


WRONG[check_forward] = [
        (lambda x, m: walk(x, m, norm=False), "the last LayerNorm is missing"),
        (lambda x, m: walk(x, m, read=lambda z: z.mean(1)), "the mean over all tokens"),
        (lambda x, m: walk(x, m, read=lambda z: z[:, 1:].mean(1)), "the mean over the patches"),
        (lambda x, m: walk(x, m).softmax(1), "a softmax is applied already"),
        (lambda x, m: walk(x, m).log_softmax(1), "logarithms of probabilities"),
        (lambda x, m: walk(x, m).argmax(1), "the predicted class"),
        (lambda x, m: walk(x, m, embed=without_a_place), "the class token has no position"),
        (lambda x, m: walk(x, m, read=lambda z: z[:, -1]), "the last token is read"),
        (lambda x, m: walk(x, m, read=lambda z: z[:, 1]), "token 1 is read"),
        (lambda x, m: walk(x, m, read=lambda z: z), "every token has got logits"),
        (lambda x, m: walk(x, m, embed=behind_the_patches), "stands behind the patches"),
        (lambda x, m: walk(x, m, embed=behind_the_patches, read=lambda z: z[:, -1]),
         "stands behind the patches"),
        (lambda x, m: walk(x, m, embed=lambda x, e: cat(e.class_token, e.patches(x))),
         "the positions are missing"),
        (lambda x, m: m.features(x), "the head is missing"),
        (lambda x, m: walk(x, m, blocks=0), "the blocks are missing"),
        (lambda x, m: walk(x, m, blocks=1), "only one block ran"),
        (lambda x, m: walk(x, m, read=lambda z: m.encoder.norm(z)[:, 0]), "norm is applied twice"),
        (lambda x, m: walk(x, m) - 1, "values are not"),
    ]  # fmt: skip


# ---- cross-entropy


def logs(logits, dim=1):
    """The logarithms of the softmax, by hand."""
    x = logits - logits.amax(dim, keepdim=True)
    return x - x.exp().sum(dim, keepdim=True).log()


def lse(logits):
    top = logits.max(dim=1).values
    return top + torch.log((logits - top[:, None]).exp().sum(1))


def loss_by_log_softmax(logits, labels):
    return -logs(logits)[range(len(labels)), labels].mean()


def loss_by_logsumexp(logits, labels):
    return (lse(logits) - logits.gather(1, labels[:, None])[:, 0]).mean()


def loss_with_one_hot(logits, labels):
    x = logits - logits.max(dim=1, keepdim=True).values
    hot = F.one_hot(labels, logits.shape[1])
    return (x.exp().sum(1).log() - (x * hot).sum(1)).sum() / len(labels)


RIGHT[check_cross_entropy] = [loss_by_log_softmax, loss_by_logsumexp, loss_with_one_hot]


def top_off(x):
    return x - x.amax(1, keepdim=True)


WRONG[check_cross_entropy] = [
    (lambda x, y: loss_by_log_softmax(x.softmax(1), y), "a second softmax"),
    (lambda x, y: loss_by_log_softmax(x, y) * len(y), "the sum over the batch"),
    (lambda x, y: lse(x) - x[range(len(y)), y], "the loss of each image"),
    (lambda x, y: logs(x)[range(len(y)), y].mean(), "the sign is turned round"),
    (F.cross_entropy, "cross_entropy has the exponentials"),
    (lambda x, y: F.nll_loss(x.log_softmax(1), y), "log_softmax has the exponentials"),
    (lambda x, y: (x.logsumexp(1) - x[range(len(y)), y]).mean(), "logsumexp has the exponentials"),
    (lambda x, y: (top_off(x).exp().log().sum(1) - top_off(x)[range(len(y)), y]).mean(),
     "inside the sum"),
    (lambda x, y: (lse(top_off(x)) - x[range(len(y)), y]).mean(), "off log-sum-exp only"),
    (lambda x, y: (lse(x) - top_off(x)[range(len(y)), y]).mean(), "class's logit only"),
    (lambda x, y: lse(x).mean(), "the logit of the true class is missing"),
    (lambda x, y: -x[range(len(y)), y].mean(), "log-sum-exp is missing"),
    (lambda x, y: -x.softmax(1)[range(len(y)), y].log().mean(), "inf or nan for logits up to"),
    (lambda x, y: (x.exp().sum(1).log() - x[range(len(y)), y]).mean(), "inf or nan for logits"),
]  # fmt: skip


# ---- a causal mask


def masked(images, model, last, move=None, read=None, norm=True, mask=True):
    """By torch's own mask, with places to go wrong."""
    z = model.embedding(images)
    if last if move is None else move:
        z = torch.cat([z[:, 1:], z[:, :1]], dim=1)
    for number, block in enumerate(model.encoder.blocks):
        q, k, v = block.attention.split_heads(block.norm1(z))
        causal = mask(number) if callable(mask) else mask
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        z = z + block.attention.projection(y.transpose(1, 2).flatten(2))
        z = z + block.mlp(block.norm2(z))
    z = model.encoder.norm(z) if norm else z
    return model.head(z[:, (-1 if last else 0) if read is None else read])


def masked_with_minus_infinity(images, model, last):
    z = model.embedding(images)
    T = z.shape[1]
    order = [*range(1, T), 0] if last else range(T)
    z = z[:, torch.tensor(order)]
    later = torch.ones(T, T).triu(1).bool()
    for block in model.encoder.blocks:
        q, k, v = block.attention.split_heads(block.norm1(z))
        s = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, float("-inf"))
        z = z + block.attention.projection((s.softmax(-1) @ v).transpose(1, 2).flatten(2))
        z = z + block.mlp(block.norm2(z))
    return model.head(model.encoder.norm(z)[:, order.index(0)])


RIGHT[check_masked_logits] = [masked, masked_with_minus_infinity]


def moved_without_their_places(images, model, last):
    e = model.embedding
    parts = [e.class_token, e.patches(images)]
    whole = cat(*(parts[::-1] if last else parts)) + e.positions
    stand_in = torch.nn.Module()
    stand_in.embedding, stand_in.encoder, stand_in.head = lambda _: whole, model.encoder, model.head
    return masked(images, stand_in, last, move=False)


WRONG[check_masked_logits] = [
    (lambda x, m, last: m(x), "without a mask"),
    (lambda x, m, last: masked(x, m, False), "should move behind"),
    (lambda x, m, last: masked(x, m, True), "should stay in front"),
    (lambda x, m, last: masked(x, m, last, read=0), "token 0 is read"),
    (lambda x, m, last: masked(x, m, last, read=-1), "token -1 is read"),
    (moved_without_their_places, "their positions did not"),
    (lambda x, m, last: masked(x, m, last, norm=False), "the last LayerNorm is missing"),
    (lambda x, m, last: masked(x, m, last) + 1, "values are not"),
]


def class_token_for_two(images, model):
    e = model.embedding
    z = torch.cat([e.class_token.expand(2, -1, -1), e.patches(images)], dim=1) + e.positions
    return model.head(model.encoder(z)[:, 0])


WRONG[check_forward] += [
    (lambda x, m: walk(x.detach(), m), "no gradient reaches `x`"),
    (lambda x, m: walk(x, m, read=lambda z: z[:, 0].detach()), "no gradient reaches|gradient"),
    (class_token_for_two, "expand it to"),
    (lambda x, m: m.head(m.encoder(m.embedding(x)))[:, 1], "token 1 is read"),
    (lambda x, m: torch.sigmoid(walk(x, m)), "a sigmoid is applied"),
]


def growth_in_two_parts(P, new_P, C, D, image_size):
    grid = (image_size // new_P) ** 2 - (image_size // P) ** 2
    return C * (new_P**2 - P**2) * D + grid * D


def growth_by_counting(P, new_P, C, D, image_size):
    def count(side):
        return (C * side**2 + 1) * D + ((image_size // side) ** 2 + 1) * D

    return count(new_P) - count(P)


RIGHT[check_growth] = [growth_in_two_parts, growth_by_counting]
WRONG[check_growth] = [
    (lambda P, n, C, D, s: C * (n**2 - P**2) * D, "the table of positions changes too"),
    (lambda P, n, C, D, s: ((s // n) ** 2 - (s // P) ** 2) * D, "the projection changes too"),
    (lambda P, n, C, D, s: growth_in_two_parts(n, P, C, D, s), "the sign is turned"),
    (lambda P, n, C, D, s: growth_in_two_parts(P, n, 1, D, s), "C numbers for each pixel"),
    (lambda P, n, C, D, s: C * (n**2 - P**2) * D + (s // n - s // P) * D, r"\(size/P\)² patches"),
    (
        lambda P, n, C, D, s: C * (n**2 - P**2) * D - ((s // n) ** 2 - (s // P) ** 2) * D,
        "the wrong sign",
    ),
    (
        lambda P, n, C, D, s: C * (n**2 - P**2) * D + ((s // n) ** 2 - (s // P) ** 2),
        "each position has D numbers",
    ),
    (lambda P, n, C, D, s: 0, "expected"),
]

WRONG[check_cross_entropy] += [
    (lambda x, y: loss_by_log_softmax(x, y) / torch.tensor(2.0).log(), "in bits"),
    (lambda x, y: loss_by_log_softmax(x, y) * len(y) / x.shape[1], "number of classes"),
    (lambda x, y: F.mse_loss(x.softmax(1), F.one_hot(y, x.shape[1]).float()), "squared error"),
    (lambda x, y: loss_by_log_softmax(x.detach(), y), "carries no gradient"),
    (lambda x, y: loss_by_log_softmax(x, y.roll(1)), "values are not"),
    (lambda x, y: logs(x, 0)[range(len(y)), y].neg().mean(), "values are not"),
    (lambda x, y: loss_by_log_softmax(x, y).item(), "should return a tensor, not float"),
]
WRONG[check_masked_logits] += [
    (lambda x, m, last: masked(x.detach(), m, last), "no gradient reaches `x`"),
    (lambda x, m, last: masked(x, m, last).softmax(-1), "values are not"),
    (lambda x, m, last: with_another_class(x, m, last), "changes the parts of `m`"),
    (lambda x, m, last: with_another_forward(x, m, last), "changes a forward in `m`"),
    (lambda x, m, last: moved_by(x, m, last, lambda z: z.flip(1)), "flip turns the patches"),
    (lambda x, m, last: moved_by(x, m, last, lambda z: z.roll(1, 1)), "to the front"),
    (
        lambda x, m, last: masked(x, m, last, mask=lambda number: number == 0),
        "only the first block has the mask",
    ),
]


class Causal(MultiHeadSelfAttention):
    def forward(self, x):
        y = F.scaled_dot_product_attention(*self.split_heads(x), is_causal=True)
        return self.projection(y.transpose(1, 2).flatten(2))


def with_another_class(images, model, last):
    for block in model.encoder.blocks:
        block.attention.__class__ = Causal
    z = model.embedding(images).roll(-int(last), 1)
    return model.head(model.encoder(z)[:, -int(last)])


def with_another_forward(images, model, last):
    for block in model.encoder.blocks:
        block.attention.forward = partial(Causal.forward, block.attention)
    z = model.embedding(images).roll(-int(last), 1)
    return model.head(model.encoder(z)[:, -int(last)])


def moved_by(images, model, last, move):
    stand_in = torch.nn.Module()
    stand_in.embedding = lambda x: move(model.embedding(x)) if last else model.embedding(x)
    stand_in.encoder, stand_in.head = model.encoder, model.head
    return masked(images, stand_in, last, move=False)


WRONG[check_forward] += [
    (lambda x, m: m(x), "calls the model's own forward"),
    (lambda x, m: m.forward(x), "calls the model's own forward"),
    (lambda x, m: walk(x, m, blocks=[lambda z, b=b: z + b(z) for b in m.encoder.blocks]),
     "both of its own inside"),
    (lambda x, m: walk(x, m, norm=False, blocks=[
        lambda z, b=b: m.encoder.norm(b(z)) for b in m.encoder.blocks]), "after every block"),
]  # fmt: skip
WRONG[check_growth] += [
    (lambda P, n, C, D, s: C * (n - P) * D + ((s // n) ** 2 - (s // P) ** 2) * D, "has C·P² num"),
    (lambda P, n, C, D, s: float(growth_in_two_parts(P, n, C, D, s)), "whole number"),
]
