"""Chapter 03: right styles and mistakes."""

import torch

from vit_tutorial.checks import (
    check_patch_mean,
    check_reached,
    check_registers,
    check_tokens,
)

RIGHT, WRONG = {}, {}
# ---- class token and positions


def tokens_by_cat(x, token, places):
    return torch.cat([token.repeat(len(x), 1, 1), x], dim=1) + places


def tokens_image_by_image(x, token, places):
    return torch.stack([torch.vstack([token[0], image]) + places[0] for image in x])


def tokens_into_an_empty_tensor(x, token, places):
    z = torch.empty(x.shape[0], x.shape[1] + 1, x.shape[2])
    z[:, 0], z[:, 1:] = token[0, 0], x
    return z + places


RIGHT[check_tokens] = [tokens_by_cat, tokens_image_by_image, tokens_into_an_empty_tensor]


def cat(*parts):
    return torch.cat([part.expand(max(len(p) for p in parts), -1, -1) for part in parts], dim=1)


WRONG[check_tokens] = [
        (lambda x, t, p: cat(t, x), "the positions are missing"),
        (lambda x, t, p: cat(x, t) + p, "the class token comes last; it is token 0"),
        (lambda x, t, p: cat(x, t), "comes last, and the positions are missing"),
        (lambda x, t, p: cat(t, x + p[:, 1:]), "the class token came after the positions"),
        (lambda x, t, p: cat(t, x + p[:, : x.shape[1]]), "the positions 0 to N - 1"),
        (lambda x, t, p: x + p[:, 1:], "the class token is missing"),
        (lambda x, t, p: x + p[:, : x.shape[1]], "the class token is missing"),
        (lambda x, t, p: x + t + p[:, 1:], "added to every patch"),
        (lambda x, t, p: cat(torch.zeros_like(t), x) + p, "zero only at the start"),
        (lambda x, t, p: cat(x.mean(1, keepdim=True), x) + p, "the mean of the patches"),
        (lambda x, t, p: cat(t, x) * p, "not multiplied"),
        (lambda x, t, p: torch.cat([cat(t, x), p.repeat(len(x), 1, 1)], -1), "each is 2D long"),
        (lambda x, t, p: torch.cat([t, x], dim=1) + p, "expand it to"),
        (lambda x, t, p: cat(t, x + p), "T = N . 1 positions"),
    ]  # fmt: skip


WRONG[check_tokens] += [
    (lambda x, t, p: cat(t, x.detach()) + p, "no gradient reaches `x`"),
    (lambda x, t, p: cat(t.data, x) + p, "no gradient reaches `t`"),
    (lambda x, t, p: (cat(t, x) + p).detach(), "carries no gradient"),
    (lambda x, t, p: cat(t, x) + p.detach(), "no gradient reaches `p`"),
    (
        lambda x, t, p: torch.cat([t.expand(32, -1, -1)[: len(x)], x], 1) + torch.randn_like(p),
        "values are not",
    ),
    (lambda x, t, p: torch.cat([t.expand(2, -1, -1), x], 1) + p, "expand it to"),
    (lambda x, t, p: torch.cat([t.expand(len(x), -1, -1), x], 2) + p, "join along axis 1"),
]


def mean_by_cases(z, has_class_token):
    return z[:, 1:].mean(1) if has_class_token else z.mean(1)


def mean_by_sums(z, has_class_token):
    first = int(has_class_token)
    return z[:, first:].sum(dim=1) / (z.shape[1] - first)


RIGHT[check_patch_mean] = [mean_by_cases, mean_by_sums]
WRONG[check_patch_mean] = [
    (lambda z, has: z.mean(1), "the class token is in the mean"),
    (lambda z, has: z[:, 1:].mean(1), "leave none out"),
    (lambda z, has: z[:, :-1].mean(1) if has else z.mean(1), "the last token is left out"),
    (lambda z, has: z[:, int(has) :].sum(1) / z.shape[1], "divide by N, not by T"),
    (lambda z, has: z[:, int(has) :].sum(1), "this is the sum"),
    (lambda z, has: z[:, 0] if has else z.mean(1), "the class token itself"),
    (lambda z, has: mean_by_cases(z, not has), "the two cases are swapped"),
    (lambda z, has: z[:, int(has) :].mean(-1), "numbers of a token"),
    (lambda z, has: z[:, int(has) :].mean(0), "over the images"),
    (lambda z, has: z[:, int(has) :].amax(1), "the maximum"),
    (lambda z, has: z[:, int(has) :].median(1)[0], "values are not"),
    (lambda z, has: mean_by_cases(z.detach(), has), "carries no gradient"),
]


def registers_by_cat(x, c, r, p):
    z = cat(c, x) + p
    return torch.cat([z[:, :1], r.expand(len(x), -1, -1), z[:, 1:]], dim=1)


def registers_by_padding(x, c, r, p):
    nowhere = torch.zeros_like(r)
    places = torch.cat([p[:, :1], nowhere, p[:, 1:]], dim=1)
    return cat(c, r, x) + places


RIGHT[check_registers] = [registers_by_cat, registers_by_padding]
WRONG[check_registers] = [
    (lambda x, c, r, p: cat(r, c + p[:, :1], x + p[:, 1:]), "the registers come first"),
    (lambda x, c, r, p: cat(c + p[:, :1], x + p[:, 1:], r), "behind the patches"),
    (lambda x, c, r, p: cat(c, r, x + p[:, 1:]), "the class token has no position"),
    (lambda x, c, r, p: cat(c + p[:, :1], r, x), "the patches have no positions"),
    (lambda x, c, r, p: cat(c, r, x), "the positions are missing"),
    (lambda x, c, r, p: cat(c + p[:, :1], r, x + p[:, :-1]), "the positions 0 to N - 1"),
    (lambda x, c, r, p: cat(c + p[:, :1], r + p[:, :1], x + p[:, 1:]), "no place in the image"),
    (lambda x, c, r, p: cat(c, x) + p, "the registers are missing"),
    (lambda x, c, r, p: cat(c + p[:, :1], torch.zeros_like(r), x + p[:, 1:]), "are zero"),
    (lambda x, c, r, p: registers_by_cat(x, c, r.detach(), p), "no gradient reaches `r`"),
    (lambda x, c, r, p: torch.cat(
        [(c + p[:, :1]).expand(2, -1, -1), r.expand(2, -1, -1), x + p[:, 1:]], 1),
     "one for the whole batch"),
    (lambda x, c, r, p: torch.cat([c + p[:, :1], r, x + p[:, 1:]], 1), "one for the whole batch"),
]  # fmt: skip


def reached_by_gradient(encoder, tokens, blind):
    for number in blind:
        encoder.blocks[number].attention.may_read[0, 1:] = 0
    z = tokens.clone().requires_grad_()
    weigh = torch.arange(1.0, 9.0, dtype=z.dtype)
    (encoder(z)[0, 0] @ weigh).backward()
    return (z.grad[0, 1:].abs().sum(-1) > 0).sum()


def reached_by_trying(encoder, tokens, blind):
    for number in blind:
        encoder.blocks[number].attention.may_read[0, 1:] = 0
    before, count = encoder(tokens)[0, 0], 0
    for patch in range(1, tokens.shape[1]):
        other = tokens.clone()
        other[0, patch] += torch.randn(8)
        count += int(not torch.equal(encoder(other)[0, 0], before))
    return count


RIGHT[check_reached] = [reached_by_gradient, reached_by_trying]


def reached(encoder, tokens, shut, row=True, score=lambda z: z[0, 0, 0], count=None):
    for number in shut:
        gate = encoder.blocks[number].attention.may_read
        if row:
            gate[0, 1:] = 0
        else:
            gate[1:, 0] = 0
    z = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(encoder(z)), z)
    return int((gradient[0, 1 if count is None else count :].norm(dim=-1) > 1e-12).sum())


WRONG[check_reached] = [
    (lambda e, z, blind: reached(e, z, blind, row=False), "shut row 0"),
    (lambda e, z, blind: reached(e, z, ()), "shut row 0"),
    (lambda e, z, blind: reached(e, z, blind, score=lambda y: y[..., 0].sum()), "token 0 alone"),
    (
        lambda e, z, blind: reached(e, z, [i for i in range(len(e.blocks)) if i not in blind]),
        "the other way round",
    ),
    (lambda e, z, blind: reached(e, z, range(len(e.blocks)) if blind else ()), "shuts all"),
    (lambda e, z, blind: reached(e, z, blind, count=0), "class token itself is counted"),
    (lambda e, z, blind: reached(e, z, blind, score=lambda y: y[0, 0].sum()), "a plain sum"),
    (lambda e, z, blind: 49, "expected 9, got 49"),
    (lambda e, z, blind: reached_by_a_sum(e, z, blind), "a plain sum"),
    (lambda e, z, blind: everyone_blind(e, z, blind), "every token is blind"),
    (
        lambda e, z, blind: 0 if len(blind) == len(e.blocks) else z.shape[1] - 1,
        "count the patches whose gradient",
    ),
]


def reached_by_a_sum(encoder, tokens, blind):
    for number in blind:
        encoder.blocks[number].attention.may_read[0, 1:] = 0
    z = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(z)[0, 0].sum(), z)
    return int((gradient[0, 1:].norm(dim=-1) > 0).sum())


def everyone_blind(encoder, tokens, blind):
    for number in blind:
        encoder.blocks[number].attention.may_read.copy_(torch.eye(tokens.shape[1]))
    return reached(encoder, tokens, ())


def with_positions_behind(x, c, r, p, first):
    z = torch.cat([*(part.expand(len(x), -1, -1) for part in (c, r)), x], 1)
    places = torch.zeros(1, z.shape[1], z.shape[2])
    places[:, first(r) : first(r) + p.shape[1]] = p
    return z + places


WRONG[check_registers] += [
    (lambda x, c, r, p: with_positions_behind(x, c, r, p, lambda r: 0), "the first N . 1 tokens"),
    (lambda x, c, r, p: with_positions_behind(x, c, r, p, lambda r: r.shape[1]), "the last N . 1"),
    (
        lambda x, c, r, p: torch.cat(
            [r.expand(len(x), -1, -1), x + p[:, 1:], (c + p[:, :1]).expand(len(x), -1, -1)], 1
        ),
        "the class token comes last",
    ),
]
WRONG[check_tokens] += [
    (lambda x, t, p: torch.cat([t.view(len(x), -1, x.shape[2]), x], 1) + p, "expand it to .B 1 D"),
    (lambda x, t, p: cat(t, x[:, 1:]) + p[:, :-1], "the first patch's place"),
    (lambda x, t, p: cat(t, x) + 2 * p, "added twice"),
    (lambda x, t, p: cat(t + p[:, :1], x), "only the class token has a position"),
    (lambda x, t, p: (cat(t, x) + p).flip(2), "the right numbers in other places"),
]
