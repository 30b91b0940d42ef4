"""Chapter 03: class token, patch tokens and positions, registers, and who reads whom."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor

from vit_tutorial.attention import MultiHeadSelfAttention
from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise, learning
from vit_tutorial.encoder import Encoder

ONE_FOR_ALL: Slips = [
    (r"invalid for input of size", "There is one vector for the whole batch, (1 1 D): expand it to "
     "(B 1 D); a reshape makes no copies."),
    (r"Sizes of tensors must match", "The vector is one for the whole batch, (1 "
     "1 D): expand it to (B 1 D), and join along axis 1, that of the tokens."),
    (r"must match the size|broadcast", "There are N patches and T = N + 1 "
     "positions: join the class token to the patches first, then add."),
]  # fmt: skip


@exercise
def check_tokens(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Check `my_tokens(patch_tokens (B N D), class_token (1 1 D), positions (1 T D)) -> (B T D)`.

    T = N + 1. Raises CheckFailed with a hint.
    """

    def joined(x: Tensor, token: Tensor, last: bool = False) -> Tensor:
        first = token.expand(len(x), -1, -1)
        return torch.cat([x, first] if last else [first, x], dim=1)

    def reference(x: Tensor, token: Tensor, places: Tensor) -> Tensor:
        return joined(x, token) + places

    mistakes: Mistakes = [
        (lambda x, token, places: joined(x, token), "the positions are missing."),
        (lambda x, token, places: joined(x, token, last=True) + places,
         "the class token comes last; it is token 0, and the positions count on "
         "it."),
        (lambda x, token, places: joined(x, token, last=True),
         "the class token comes last, and the positions are missing."),
        (lambda x, token, places: joined(x + places[:, 1:], token),
         "the class token came after the positions, so it has none: join first, "
         "then add all T positions."),
        (lambda x, token, places: joined(x + places[:, :-1], token),
         "the patches got the positions 0 to N - 1; position 0 belongs to the "
         "class token."),
        (lambda x, token, places: joined(x + places[:, :-1], token + places[:, -1:]),
         "the class token got the last position; its own is the first."),
        (lambda x, token, places: x + places[:, 1:], "the class token is "
         "missing: these are N tokens, T = N + 1 were expected."),
        (lambda x, token, places: x + places[:, :-1],
         "the class token is missing: these are N tokens, T = N + 1 were "
         "expected."),
        (lambda x, token, places: x + token + places[:, 1:],
         "the class token was added to every patch; it is a token of its own, "
         "in front of them."),
        (lambda x, token, places: joined(x, token.new_zeros(token.shape)) + places,
         "the class token is zero only at the start: use the vector that is "
         "given, it is learned."),
        (lambda x, token, places: joined(x, x.mean(dim=1, keepdim=True)) + places,
         "the mean of the patches stands in front of them; use the learned "
         "vector that is given."),
        (lambda x, token, places: torch.cat(
            [joined(x, token)[:1], joined(x, token.new_zeros(token.shape))[1:]]) + places,
         "only the first image has its class token: expand it to every image of "
         "the batch."),
        (lambda x, token, places: torch.cat([joined(x, token)[:, :1], x[:, 1:]], 1)
         + places[:, :-1], "the class token took the first patch's place; it stands in front of "
         "all N patches, so there are N + 1 tokens."),
        (lambda x, token, places: joined(x, token) + 2 * places, "the positions are added twice."),
        (lambda x, token, places: joined(x, token + places[:, :1]), "only the class token has a "
         "position; each patch has one, too."),
        (lambda x, token, places: joined(x, token) * places,
         "positions are added to the tokens, not multiplied with them."),
        (lambda x, token, places: torch.cat(
            [joined(x, token), places.expand(len(x), -1, -1)], dim=-1),
         "the positions were put beside the tokens, so each is 2D long: add them."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    trials = [
        tuple(torch.randn(*shape, generator=generator) for shape in shapes)
        for shapes in (
            [(3, 4, 8), (1, 1, 8), (1, 5, 8)],
            [(2, 49, 64), (1, 1, 64), (1, 50, 64)],
            [(1, 9, 6), (1, 1, 6), (1, 10, 6)],
        )
    ]
    return compare(implementation, reference, trials, mistakes, ONE_FOR_ALL)


@exercise
def check_patch_mean(implementation: Callable[[Tensor, bool], Tensor]) -> bool:
    """Check `my_patch_mean(z (B T D), has_class_token) -> (B D)`, the mean over the patches."""

    def reference(z: Tensor, has_class_token: bool) -> Tensor:
        return z[:, int(has_class_token) :].mean(dim=1)

    mistakes: Mistakes = [
        (lambda z, has: z.mean(dim=1), "the class token is in the mean: it is "
         "no patch."),
        (lambda z, has: z[:, 1:].mean(dim=1), "without a class token all T "
         "tokens are patches: leave none out."),
        (lambda z, has: z[:, : z.shape[1] - has].mean(dim=1),
         "the last token is left out; the class token is the first."),
        (lambda z, has: z[:, int(has) :].sum(dim=1) / z.shape[1],
         "the class token is left out of the sum, but counted: divide by N, not "
         "by T."),
        (lambda z, has: z[:, int(has) :].sum(dim=1), "this is the sum: divide "
         "by N."),
        (lambda z, has: z[:, int(has) :].amax(dim=1), "this is the maximum; take the mean."),
        (lambda z, has: z[:, 0] if has else z.mean(dim=1),
         "this is the class token itself; take the mean of the others."),
        (lambda z, has: reference(z, not has), "the two cases are swapped."),
        (lambda z, has: z[:, int(has) :].mean(dim=2),
         "the mean runs over the numbers of a token; it runs over the tokens, "
         "dim=1."),
        (lambda z, has: z[:, int(has) :].mean(dim=0),
         "the mean runs over the images; it runs over the tokens, dim=1."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 10, 4), (1, 5, 8)]
    trials = [
        (torch.randn(*shape, generator=generator), has) for shape in shapes for has in (True, False)
    ]
    return compare(implementation, reference, trials, mistakes)


@exercise
def check_registers(implementation: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Check `my_tokens_with_registers(patch_tokens, class_token, registers (1 r D), positions)`.

    The result is (B 1+r+N D): the class token, the registers (without positions), the patches.
    """

    def joined(x: Tensor, *first: Tensor) -> Tensor:
        return torch.cat([*(part.expand(len(x), -1, -1) for part in first), x], dim=1)

    def reference(x: Tensor, token: Tensor, registers: Tensor, places: Tensor) -> Tensor:
        return joined(x + places[:, 1:], token + places[:, :1], registers)

    mistakes: Mistakes = [
        (lambda x, c, r, p: joined(x + p[:, 1:], r, c + p[:, :1]),
         "the registers come first; token 0 is the class token."),
        (lambda x, c, r, p: torch.cat([joined(x, c) + p, r.expand(len(x), -1, -1)], dim=1),
         "the registers stand behind the patches; they belong between class "
         "token and patches."),
        (lambda x, c, r, p: joined(x + p[:, 1:], c, r),
         "the class token has no position; it has the first."),
        (lambda x, c, r, p: joined(x, c + p[:, :1], r),
         "the patches have no positions."),
        (lambda x, c, r, p: joined(x, c, r), "the positions are missing."),
        (lambda x, c, r, p: joined(x + p[:, :-1], c + p[:, :1], r),
         "the patches got the positions 0 to N - 1; position 0 belongs to the "
         "class token."),
        (lambda x, c, r, p: joined(x + p[:, 1:], c + p[:, :1], r + p[:, :1]),
         "the registers got the class token's position; they have no place in "
         "the image, so no position."),
        (lambda x, c, r, p: joined(x, c) + p, "the registers are missing."),
        (lambda x, c, r, p: joined(x, c, r)
         + torch.cat([p, 0 * p], 1)[:, : p.shape[1] + r.shape[1]],
         "the positions were added to the first N + 1 tokens, registers among them: add them to "
         "class token and patches, then put the registers in between."),
        (lambda x, c, r, p: joined(x, c, r)
         + torch.cat([0 * p, p], 1)[:, -p.shape[1] - r.shape[1] :],
         "the positions were added to the last N + 1 tokens: a register got the class token's, and "
         "the class token none."),
        (lambda x, c, r, p: joined(x + p[:, 1:], c + p[:, :1], r + p[:, 1 : 1 + r.shape[1]]),
         "the registers got positions of patches; they have no place in the image, so no "
         "position."),
        (lambda x, c, r, p: torch.cat([joined(x + p[:, 1:], r), (c + p[:, :1]).expand(
            len(x), -1, -1)], 1), "the class token comes last; it is token 0."),
        (lambda x, c, r, p: joined(x + p[:, 1:], c + p[:, :1], 0 * r),
         "the registers are zero: use the vectors that are given, they are "
         "learned."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 4, 8, 3), (1, 9, 6, 1), (3, 4, 8, 2)]  # B N D r
    trials = [
        tuple(torch.randn(*shape, generator=generator)
              for shape in [(B, N, D), (1, 1, D), (1, r, D), (1, N + 1, D)])
        for B, N, D, r in sizes
    ]  # fmt: skip
    return compare(implementation, reference, trials, mistakes, ONE_FOR_ALL)


class GatedAttention(MultiHeadSelfAttention):
    """Attention in which token t reads token s only where `may_read[t, s]` is not 0."""

    may_read: Tensor

    never: Tensor | None = None  # what stays shut whatever the gate says

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split_heads(x)
        shut = self.may_read == 0 if self.never is None else (self.may_read == 0) | self.never
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(shut, -torch.inf)
        return self.projection((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


def gated_encoder(L: int, T: int) -> Encoder:
    """An encoder for T tokens whose gates are all open."""
    encoder = Encoder(L, 8, 2, 16)
    for block in encoder.blocks:
        block.attention = GatedAttention(8, 2)
        block.attention.may_read = torch.ones(T, T)
    return encoder.double()


def narrow_encoder(T: int, alone: bool) -> Encoder:
    """Two blocks: in the second token 0 reads only patch 1, and what its gate allows.

    With `alone`, patches read nothing but themselves in the first.
    """
    encoder = gated_encoder(2, T)
    first, second = (cast(GatedAttention, block.attention) for block in encoder.blocks)
    second.never = torch.zeros(T, T, dtype=torch.bool)
    second.never[0, 2:] = True
    if alone:
        first.never = ~torch.eye(T, dtype=torch.bool)
        first.never[0] = False
    return encoder


@exercise
def check_reached(implementation: Callable[[Encoder, Tensor, tuple[int, ...]], int]) -> bool:
    """Check `my_reached(encoder, tokens (1 T D), blind) -> int`.

    On how many patches the class token's output depends when row 0 is shut in the blocks `blind`:
    `encoder.blocks[i].attention.may_read[0, 1:] = 0`.
    """

    def reference(
        encoder: Encoder, tokens: Tensor, blind: tuple[int, ...], everyone: bool = False,
        read: slice = slice(3),
    ) -> int:  # fmt: skip
        encoder = deepcopy(encoder)
        for number in blind:
            attention: Any = encoder.blocks[number].attention
            attention.may_read[0, 1:] = 0
            if everyone:
                attention.may_read = torch.eye(tokens.shape[1])
        z = tokens.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(encoder(z)[0, 0, read].sum(), z)
        return int((gradient[0, 1:].norm(dim=-1) > 0).sum())

    def all_but(encoder: Encoder, tokens: Tensor, blind: tuple[int, ...]) -> int:
        others = tuple(i for i in range(len(encoder.blocks)) if i not in blind)
        return reference(encoder, tokens, others)

    def any_of(encoder: Encoder, tokens: Tensor, blind: tuple[int, ...]) -> int:
        return 0 if blind else tokens.shape[1] - 1

    mistakes: Mistakes = [
        (learning(all_but), "the other way round: shut the blocks in `blind`, "
         "and leave the rest open."),
        (any_of, "one shut block shuts all. Every block has a gate of its own, "
         "and one open block is enough; and token 0 must go on reading itself "
         "(may_read[0, 1:] = 0), or its softmax has nothing to read."),
        (lambda e, z, blind: z.shape[1] - 1, "every patch is still reached when "
         "all blocks are shut: shut row 0 (a row is a reader) with "
         "may_read[0, 1:] = 0. Token 0 goes on reading itself: with nothing to "
         "read, its softmax gives nan, which is not 0. And read the output of "
         "token 0 alone."),
        (learning(lambda e, z, blind: reference(e, z, blind, everyone=True)), "every token is "
         "blind; shut row 0 alone, that of the class token: the patches go on reading."),
        (lambda e, z, blind: 0 if len(blind) == len(e.blocks) else z.shape[1] - 1,
         "this is a number from the count of shut blocks, and wrong where the encoder lets the "
         "class token read one patch only: count the patches whose gradient is not zero."),
        (learning(lambda e, z, blind: reference(e, z, blind, read=slice(None))),
         "what is counted is rounding: a plain sum of what the last LayerNorm gives "
         "is always the same; read one number of it."),
        (learning(lambda *a: reference(*a) + 1), "the class token itself is "
         "counted: leave token 0 out."),
        (learning(lambda *a: max(reference(*a), 1)), "the class token itself is "
         "counted."),
        (lambda e, z, blind: 0, "nothing is ever reached: take the gradient at "
         "the tokens that went in; a plain sum of what the last LayerNorm gives "
         "is always the same, so weigh it."),
    ]  # fmt: skip
    trials = [
        (gated_encoder(L, T), torch.randn(1, T, 8, dtype=torch.float64), blind)
        for L, T, shut in [(2, 10, [(), (0,), (1,), (0, 1)]), (3, 5, [(0, 2), (0, 1, 2)])]
        for blind in shut
    ] + [
        (narrow_encoder(6, alone), torch.randn(1, 6, 8, dtype=torch.float64), (0,))
        for alone in (False, True)
    ]
    return compare(learning(implementation), learning(reference), trials, mistakes, gradients=False)
