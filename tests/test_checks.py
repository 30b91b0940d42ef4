"""A right answer in any style passes; a known mistake gets the hint that is meant for it."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from vit_tutorial.checks import (
    CheckFailed,
    check,
    check_attention_weights,
    check_multi_head,
    check_patchify,
    check_schedule,
)


def rejected(checker, answer, hint):
    """The answer is refused, under its own name, with the hint."""
    with pytest.raises(CheckFailed, match=hint) as failure:
        checker(answer)
    assert str(failure.value).startswith(answer.__name__)


def accepted(checker, answer, capsys):
    """The answer passes, and one line says so."""
    checker(answer)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"✓ {answer.__name__} is right")


def my_unwritten(*arguments):
    """What a reader finds in the chapter."""
    ...


@pytest.mark.parametrize(
    "checker", [check_patchify, check_attention_weights, check_multi_head, check_schedule]
)
def test_a_body_not_written_yet_is_no_failure(checker, capsys):
    checker(my_unwritten)
    assert capsys.readouterr().out.startswith("○ my_unwritten gave nothing back yet")


@pytest.mark.parametrize("checker", [check_patchify, check_attention_weights, check_multi_head])
@pytest.mark.parametrize(("wrong", "kind"), [([1.0], "list"), (np.zeros(3), "ndarray"), (1, "int")])
def test_what_is_no_tensor_is_named(checker, wrong, kind):
    rejected(checker, lambda *_: wrong, f"should return a tensor, not {kind}")


@pytest.mark.parametrize("checker", [check_patchify, check_attention_weights, check_multi_head])
def test_a_wrong_shape_is_told_with_the_right_one(checker):
    rejected(checker, lambda *_: torch.zeros(2), r"shape \(2,\), expected \(\d")


@pytest.mark.parametrize(
    "checker", [check_patchify, check_attention_weights, check_multi_head, check_schedule]
)
def test_a_check_leaves_the_readers_random_numbers_alone(checker):
    before = torch.get_rng_state()
    checker(my_unwritten)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mistake_nobody_foresaw_is_still_refused_with_its_size():
    def my_double(x):
        return 2 * x + 0.5

    trials = [(torch.arange(3.0),)]
    with pytest.raises(CheckFailed, match="values are not; the largest difference is 0.5"):
        check(my_double, lambda x: 2 * x, trials, [])


def test_a_failed_check_is_an_assertion_error():
    assert issubclass(CheckFailed, AssertionError)


# ---- patchify


def patches_in_loops(images, P):
    B, _, H, W = images.shape
    out = []
    for b in range(B):
        row = []
        for y in range(0, H, P):
            for x in range(0, W, P):
                row.append(images[b, :, y : y + P, x : x + P].flatten())
        out.append(torch.stack(row))
    return torch.stack(out)


def patches_by_view_and_permute(images, P):
    B, C, H, W = images.shape
    grid = images.view(B, C, H // P, P, W // P, P)
    return grid.permute(0, 2, 4, 1, 3, 5).contiguous().view(B, -1, C * P * P)


def patches_by_einops(images, P):
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=P, q=P)


def patches_by_unfold(images, P):
    return F.unfold(images, P, stride=P).transpose(1, 2)


def patches_by_tensor_unfold(images, P):
    C = images.shape[1]
    grid = images.unfold(2, P, P).unfold(3, P, P)
    return grid.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).reshape(len(images), -1, C * P * P)


def patches_in_double_precision(images, P):
    return patches_by_unfold(images.double(), P)


@pytest.mark.parametrize(
    "answer",
    [patches_in_loops, patches_by_view_and_permute, patches_by_einops, patches_by_unfold,
     patches_by_tensor_unfold, patches_in_double_precision],
)  # fmt: skip
def test_patches_cut_in_any_style_pass(answer, capsys):
    accepted(check_patchify, answer, capsys)


def patches_by_reshape(images, P):
    return images.reshape(len(images), -1, images.shape[1] * P**2)


def patches_split_but_not_moved(images, P):
    B, C, H, W = images.shape
    return images.view(B, C, H // P, P, W // P, P).view(B, H // P * (W // P), -1)


def patches_with_the_channel_in_front(images, P):
    windows = images.unfold(2, P, P).unfold(3, P, P)
    return windows.contiguous().view(images.shape[0], -1, images.shape[1] * P * P)


def patches_down_the_columns(images, P):
    H, W = images.shape[2:]
    cut = [
        images[:, :, y : y + P, x : x + P].flatten(1)
        for x in range(0, W, P)
        for y in range(0, H, P)
    ]
    return torch.stack(cut, dim=1)


def patches_with_colours_last(images, P):
    B, C, H, W = images.shape
    grid = images.permute(0, 2, 3, 1).reshape(B, H // P, P, W // P, P, C)
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)


def patches_turned_over(images, P):
    B, C, H, W = images.shape
    grid = images.reshape(B, C, H // P, P, W // P, P)
    return grid.permute(0, 2, 4, 1, 5, 3).reshape(B, -1, C * P * P)


def patches_with_channels_apart(images, P):
    B, C, H, W = images.shape
    return patches_in_loops(images, P).view(B, -1, C, P * P)


def patches_in_a_grid(images, P):
    B, _, H, W = images.shape
    return patches_in_loops(images, P).view(B, H // P, W // P, -1)


def patches_across(images, P):
    return F.unfold(images, P, stride=P)


def patches_rescaled(images, P):
    return patches_in_loops(images, P) / 255


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (patches_by_reshape, "plain reshape has the right shape and the wrong pixels"),
        (patches_split_but_not_moved, "plain reshape has the right shape and the wrong pixels"),
        (patches_with_the_channel_in_front, "the channel axis still leads"),
        (patches_down_the_columns, "column by column"),
        (patches_with_colours_last, "the channels come last"),
        (patches_turned_over, "rows and columns are swapped"),
        (patches_with_channels_apart, "still has its channels apart"),
        (patches_in_a_grid, r"shape \(2, 2, 3, 48\), expected \(2, 6, 48\)"),
        (patches_across, r"shape \(2, 48, 6\), expected \(2, 6, 48\)"),
        (patches_rescaled, "the values are not"),
    ],
)
def test_known_mistakes_with_patches_get_their_hint(answer, hint):
    rejected(check_patchify, answer, hint)


def test_a_grid_taken_to_be_square_does_not_pass():
    def square(images, P):
        n = images.shape[2] // P
        return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", h=n, w=n, p=P)

    with pytest.raises(Exception, match="shape"):
        check_patchify(square)


# ---- attention weights


def weights_in_one_line(q, k):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)


def weights_by_einsum(q, k):
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.size(-1) ** -0.5
    return F.softmax(scores, -1)


def weights_by_exp(q, k):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    e = torch.exp(scores - scores.max(dim=-1, keepdim=True).values)
    return e / e.sum(-1, keepdim=True)


def weights_row_by_row(q, k):
    rows = [
        ((q[..., t : t + 1, :] * k).sum(-1) / q.shape[-1] ** 0.5).softmax(-1)
        for t in range(q.shape[-2])
    ]
    return torch.stack(rows, dim=-2)


def weights_from_the_fused_kernel(q, k):
    eye = torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2])
    return F.scaled_dot_product_attention(q, k, eye)


@pytest.mark.parametrize(
    "answer",
    [weights_in_one_line, weights_by_einsum, weights_by_exp, weights_row_by_row,
     weights_from_the_fused_kernel],
)  # fmt: skip
def test_attention_weights_in_any_style_pass(answer, capsys):
    accepted(check_attention_weights, answer, capsys)


def scores(q, k):
    return torch.einsum("...td,...sd->...ts", q, k)


def causally(q, k):
    s = scores(q, k) / math.sqrt(q.shape[-1])
    mask = torch.tril(torch.ones(s.shape[-2:])) == 0
    return s.masked_fill(mask, float("-inf")).softmax(-1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda q, k: F.softmax(scores(q, k) / math.sqrt(q.size(-1)), dim=-2), "columns sum to 1"),
        (lambda q, k: F.softmax(scores(q, k), dim=-1), "not scaled: divide by √d"),
        (lambda q, k: F.softmax(scores(q, k) / q.size(-1), dim=-1), "are divided by d"),
        (lambda q, k: F.softmax(scores(q, k), dim=-1) / math.sqrt(q.size(-1)), "after the softmax"),
        (lambda q, k: scores(q, k) * q.size(-1) ** -0.5, "the softmax is missing"),
        (lambda q, k: weights_in_one_line(k, q), "q and k are swapped"),
        (lambda q, k: F.softmax(scores(q, k) / len(q[..., 0].mT) ** 0.5, -1) if q.ndim == 2
         else None, "√T, the number of tokens"),
        (causally, "a causal mask"),
        (lambda q, k: F.softmax(scores(q, k) * math.sqrt(q.size(-1)), dim=-1), "values are not"),
        (lambda q, k: weights_in_one_line(q, k).log(), "values are not"),
        (lambda q, k: weights_in_one_line(q, q), "values are not"),
    ],
    ids=["axis", "unscaled", "by d", "late", "raw", "swapped", "by T", "causal", "times", "log",
         "q q"],
)  # fmt: skip
def test_known_mistakes_with_attention_weights_get_their_hint(answer, hint):
    rejected(check_attention_weights, answer, hint)


# ---- many heads


def heads_in_a_loop(x, qkv, projection, h):
    D = x.shape[-1]
    d = D // h
    q, k, v = qkv(x).split(D, dim=-1)
    outputs = []
    for i in range(h):
        part = slice(i * d, (i + 1) * d)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / d**0.5, dim=-1)
        outputs.append(weights @ v[..., part])
    return projection(torch.cat(outputs, dim=-1))


def heads_by_view_and_transpose(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-2, -1) * (D // h) ** -0.5).softmax(dim=-1)
    return projection((attention @ v).transpose(1, 2).reshape(B, T, D))


def heads_by_einsum(x, qkv, projection, h):
    q, k, v = (part.unflatten(-1, (h, -1)) for part in qkv(x).chunk(3, dim=-1))
    weights = torch.einsum("bthd,bshd->bhts", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return projection(torch.einsum("bhts,bshd->bthd", weights, v).flatten(2))


def heads_by_the_fused_kernel(x, qkv, projection, h):
    q, k, v = rearrange(qkv(x), "b t (three h d) -> three b h t d", three=3, h=h)
    return projection(rearrange(F.scaled_dot_product_attention(q, k, v), "b h t d -> b t (h d)"))


def heads_by_pytorch(x, qkv, projection, h):
    return F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3, x.shape[-1], h, qkv.weight, qkv.bias, None, None, False, 0.0,
        projection.weight, projection.bias, need_weights=False,
    )[0].transpose(0, 1)  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [heads_in_a_loop, heads_by_view_and_transpose, heads_by_einsum, heads_by_the_fused_kernel,
     heads_by_pytorch],
)  # fmt: skip
def test_many_heads_in_any_style_pass(answer, capsys):
    accepted(check_multi_head, answer, capsys)


def with_heads(x, qkv, projection, h, scale=None, dim=-1):
    """The view and transpose of most tutorials, with places to go wrong."""
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
    scale = (D // h) ** -0.5 if scale is None else scale
    attention = (q @ k.transpose(-2, -1) * scale).softmax(dim=dim)
    return projection((attention @ v).transpose(1, 2).reshape(B, T, D))


def mixing_tokens_and_channels(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = (part.view(B, h, T, D // h) for part in qkv(x).chunk(3, -1))
    y = F.scaled_dot_product_attention(q, k, v)
    return projection(y.transpose(1, 2).contiguous().view(B, T, D))


def joined_without_moving_back(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
    return projection(F.scaled_dot_product_attention(q, k, v).reshape(B, T, D))


def packed_head_by_head(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, h, 3, D // h).permute(3, 0, 2, 1, 4)
    return projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def heads_interleaved(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, D // h, h).permute(2, 0, 4, 1, 3)
    return projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def joined_interleaved(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
    return projection(F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1).flatten(2))


def each_head_on_its_own_slice(x, qkv, projection, h):
    D = x.shape[-1]
    d = D // h
    outputs = []
    for i in range(h):
        own = slice(i * d, (i + 1) * d)
        q, k, v = (
            F.linear(x[..., own], qkv.weight[p * D : (p + 1) * D][own, own],
                     qkv.bias[p * D : (p + 1) * D][own])
            for p in range(3)
        )  # fmt: skip
        outputs.append(F.scaled_dot_product_attention(q, k, v))
    return projection(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (mixing_tokens_and_channels, "mixes tokens with channels"),
        (joined_without_moving_back, "without moving T back"),
        (packed_head_by_head, r"qkv is packed \(3 h d\)"),
        (heads_interleaved, r"within D the heads come first, \(h d\)"),
        (joined_interleaved, r"joined as \(d h\)"),
        (lambda x, a, b, h: with_heads(x, a, b, h, scale=x.shape[-1] ** -0.5), "scaled by √D"),
        (lambda x, a, b, h: with_heads(x, a, b, h, scale=h / x.shape[-1]), "scaled by d, not √d"
         "|scaled by d, not by √d"),
        (lambda x, a, b, h: with_heads(x, a, b, h, scale=1), "not scaled by √d"),
        (lambda x, a, b, h: with_heads(x, a, b, h, dim=-2), "the wrong axis"),
        (lambda x, a, b, h: with_heads(x, a, lambda y: y, h), "output projection is missing"),
        (lambda x, a, b, h: with_heads(x, a, b, 1), "one large head"),
        (each_head_on_its_own_slice, "only its own slice"),
        (lambda x, a, b, h: with_heads(x, a, b, h) + x, "values are not"),
    ],
    ids=["scramble", "not moved back", "packing", "interleaved", "joined", "by D", "by d",
         "unscaled", "axis", "no projection", "one head", "slices", "residual"],
)  # fmt: skip
def test_known_mistakes_with_many_heads_get_their_hint(answer, hint):
    rejected(check_multi_head, answer, hint)


def test_a_check_of_many_heads_asks_for_no_gradient():
    seen = []

    def answer(x, qkv, projection, h):
        seen.append(with_heads(x, qkv, projection, h).requires_grad)

    check_multi_head(answer)
    assert seen == [False]


# ---- the schedule


def rate_with_an_if(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def rate_as_a_tensor(progress, warmup):
    share = torch.tensor((progress - warmup) / (1 - warmup))
    return torch.where(
        share < 0, progress / max(warmup, 1e-9), (1 + torch.cos(share * torch.pi)) / 2
    )


def rate_by_numpy(progress, warmup):
    if warmup == 0:
        return float(np.cos(np.pi / 2 * progress) ** 2)  # half a cosine, as a square
    return float(np.interp(progress, [0, warmup], [0, 1])) * (
        1 if progress < warmup else np.cos(np.pi / 2 * (progress - warmup) / (1 - warmup)) ** 2
    )


@pytest.mark.parametrize("answer", [rate_with_an_if, rate_as_a_tensor, rate_by_numpy])
def test_a_schedule_in_any_style_passes(answer, capsys):
    accepted(check_schedule, answer, capsys)


def rate_without_warm_up(progress, warmup):
    return (1 + math.cos(math.pi * progress)) / 2


def rate_flat_before_the_cosine(progress, warmup):
    return rate_with_an_if(max(progress, warmup), warmup)


def rate_that_never_falls(progress, warmup):
    return min(1.0, progress / warmup) if warmup else 1.0


def rate_that_falls_in_a_line(progress, warmup):
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def rate_whose_cosine_ignores_the_warm_up(progress, warmup):
    return progress / warmup if progress < warmup else rate_without_warm_up(progress, warmup)


def rate_that_does_not_stretch_the_rest(progress, warmup):
    return progress / warmup if progress < warmup else rate_without_warm_up(progress - warmup, 0)


def rate_that_goes_below_zero(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return math.cos(math.pi * (progress - warmup) / (1 - warmup))


def rate_by_a_quarter_of_a_cosine(progress, warmup):
    if progress < warmup:
        return progress / warmup
    return math.cos(math.pi / 2 * (progress - warmup) / (1 - warmup))


def rate_warm_too_soon(progress, warmup, epochs=8):
    return rate_with_an_if(progress, warmup / epochs)


def rate_that_divides_by_no_warm_up(progress, warmup):
    return rate_with_an_if(progress, warmup) if progress > warmup else progress / warmup


def rate_in_words(progress, warmup):
    return "high"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (rate_without_warm_up, "there is no warm-up"),
        (rate_flat_before_the_cosine, "no warm-up: the factor is 1 from the start"),
        (rate_that_never_falls, "the factor never falls"),
        (rate_that_falls_in_a_line, "falls in a straight line"),
        (rate_whose_cosine_ignores_the_warm_up, "ignores the warm-up"),
        (rate_that_does_not_stretch_the_rest, "does not reach 0 at the end: stretch"),
        (rate_that_goes_below_zero, "goes below 0"),
        (rate_by_a_quarter_of_a_cosine, "a quarter of a cosine"),
        (rate_warm_too_soon, "over too soon"),
        (rate_that_divides_by_no_warm_up, "a warm-up of 0 divides by zero"),
        (rate_in_words, "should return a number, not str"),
    ],
)
def test_known_mistakes_with_the_schedule_get_their_hint(answer, hint):
    rejected(check_schedule, answer, hint)


def test_modules_given_to_a_check_keep_their_weights():
    kept = []

    def answer(x, qkv, projection, h):
        kept.append([p.clone() for p in (*qkv.parameters(), *projection.parameters())])
        return with_heads(x, qkv, projection, h)

    check_multi_head(answer)
    check_multi_head(answer)  # the same inputs every time, so that a reader can come back to them
    first, second = kept[: len(kept) // 2], kept[len(kept) // 2 :]
    assert all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert isinstance(nn.Linear(1, 1), nn.Module)
