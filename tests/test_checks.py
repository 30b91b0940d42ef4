"""A right answer in any style passes; a known mistake gets the hint that is meant for it."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from vit_tutorial.checks import (
    CheckFailed,
    check,
    check_attention_rollout,
    check_attention_weights,
    check_block,
    check_cross_entropy,
    check_forward,
    check_masked_logits,
    check_multi_head,
    check_patchify,
    check_projection,
    check_schedule,
    check_sincos,
    check_tokens,
)

TENSOR_CHECKS = [
    check_attention_rollout,
    check_attention_weights,
    check_block,
    check_cross_entropy,
    check_forward,
    check_masked_logits,
    check_multi_head,
    check_patchify,
    check_projection,
    check_sincos,
    check_tokens,
]


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


@pytest.mark.parametrize("checker", [*TENSOR_CHECKS, check_schedule])
def test_a_body_not_written_yet_is_no_failure(checker, capsys):
    checker(my_unwritten)
    assert capsys.readouterr().out.startswith("○ my_unwritten gave nothing back yet")


@pytest.mark.parametrize("checker", TENSOR_CHECKS)
@pytest.mark.parametrize(("wrong", "kind"), [([1.0], "list"), (np.zeros(3), "ndarray"), (1, "int")])
def test_what_is_no_tensor_is_named(checker, wrong, kind):
    rejected(checker, lambda *_: wrong, f"should return a tensor, not {kind}")


@pytest.mark.parametrize("checker", TENSOR_CHECKS)
def test_a_wrong_shape_is_told_with_the_right_one(checker):
    rejected(checker, lambda *_: torch.zeros(2, 1), r"shape \(2, 1\), expected \(")


@pytest.mark.parametrize("checker", [*TENSOR_CHECKS, check_schedule])
def test_a_check_leaves_the_readers_random_numbers_alone(checker):
    before = torch.get_rng_state()
    checker(my_unwritten)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mistake_nobody_foresaw_is_still_refused_with_its_size():
    def my_double(x):
        return 2 * x + 0.5

    trials = [(torch.arange(3.0),)]
    with pytest.raises(CheckFailed, match=r"values are not; the largest difference is 0.5"):
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
    return patches_in_loops(images, P).view(len(images), -1, images.shape[1], P * P)


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
        (lambda q, k: F.softmax(scores(q, k) / q.shape[-2] ** 0.5, -1), "√T, the number of tokens"),
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
    q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, -1))
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
        (lambda x, a, b, h: with_heads(x, a, b, h, scale=h / x.shape[-1]), "by d, not by √d"),
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


# ---- the projection


def project(images, weight, bias, P, cut=patches_by_unfold):
    return cut(images, P) @ weight.T + bias


def tokens_by_convolution(images, weight, bias, P):
    kernel = weight.view(len(weight), -1, P, P)
    return F.conv2d(images, kernel, bias, stride=P).flatten(2).transpose(1, 2)


def tokens_by_linear(images, weight, bias, P):
    return F.linear(patches_in_loops(images, P), weight, bias)


@pytest.mark.parametrize("answer", [project, tokens_by_convolution, tokens_by_linear])
def test_a_projection_in_any_style_passes(answer, capsys):
    accepted(check_projection, answer, capsys)


def maps_of_a_convolution(images, weight, bias, P):
    return F.conv2d(images, weight.view(len(weight), -1, P, P), bias, stride=P)


def maps_reshaped(images, weight, bias, P):
    maps = maps_of_a_convolution(images, weight, bias, P)
    return maps.reshape(len(maps), -1, len(weight))


def weight_not_transposed(images, weight, bias, P):
    try:
        return patches_by_unfold(images, P) @ weight + bias
    except RuntimeError:  # as the reader would after the first two sizes: only now transpose
        return project(images, weight, bias, P)


def weight_reshaped(images, weight, bias, P):
    return patches_by_unfold(images, P) @ weight.reshape(-1, len(weight)) + bias


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, w, b, P: patches_by_unfold(x, P) @ w.T, "the bias is missing"),
        (weight_not_transposed, "keeps its weight as"),
        (weight_reshaped, "keeps its weight as"),
        (lambda *a: project(*a, cut=patches_by_reshape), "cut by a plain reshape"),
        (lambda *a: project(*a, cut=patches_with_colours_last), "the channels come last"),
        (lambda *a: project(*a, cut=patches_turned_over), "every patch is transposed"),
        (lambda *a: project(*a, cut=patches_down_the_columns), "column by column"),
        (lambda x, w, b, P: (patches_by_unfold(x, P)[..., None, :] * w).mean(-1) + b, "averaged"),
        (lambda x, w, b, P: project(x, w / w.shape[1] ** 0.5, b, P), "divided by √"),
        (maps_reshaped, "without moving D"),
        (maps_of_a_convolution, "these are the maps of a convolution"),
        (lambda *a: project(*a).transpose(1, 2), r"\(B D N\): swap the last two axes"),
    ],
    ids=["bias", "no T", "reshaped", "cut", "colours", "turned", "columns", "mean", "scaled",
         "not moved", "maps", "B D N"],
)  # fmt: skip
def test_known_mistakes_with_the_projection_get_their_hint(answer, hint):
    rejected(check_projection, answer, hint)


# ---- class token and positions


def tokens_by_cat(x, token, places):
    return torch.cat([token.repeat(len(x), 1, 1), x], dim=1) + places


def tokens_image_by_image(x, token, places):
    return torch.stack([torch.vstack([token[0], image]) + places[0] for image in x])


def tokens_into_an_empty_tensor(x, token, places):
    z = torch.empty(x.shape[0], x.shape[1] + 1, x.shape[2])
    z[:, 0], z[:, 1:] = token[0, 0], x
    return z + places


@pytest.mark.parametrize(
    "answer", [tokens_by_cat, tokens_image_by_image, tokens_into_an_empty_tensor]
)
def test_tokens_joined_in_any_style_pass(answer, capsys):
    accepted(check_tokens, answer, capsys)


def cat(*parts):
    return torch.cat([part.expand(max(len(p) for p in parts), -1, -1) for part in parts], dim=1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
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
        (lambda x, t, p: torch.cat([t, x], dim=1) + p, "one vector for the whole batch: expand"),
        (lambda x, t, p: cat(t, x + p), "of which there are T = N"),
    ],
    ids=["no places", "last", "last, no places", "late", "0 to N - 1", "no token", "no token, 0",
         "everywhere", "zero", "mean", "times", "beside", "batch", "N and T"],
)  # fmt: skip
def test_known_mistakes_with_tokens_get_their_hint(answer, hint):
    rejected(check_tokens, answer, hint)


# ---- fixed positions


def sincos(rows, cols, D, last=None, start=0, scale=lambda side: 1.0, base=10000.0, sign=-1):
    """By loops, as the formula is read, with places to go wrong."""
    n = D // 4
    w = [base ** (sign * i / (last(n) if last else n - 1)) for i in range(n)]
    table = []
    for y in range(start, rows + start):
        for x in range(start, cols + start):
            angles = [[w_i * v * scale(side) for w_i in w] for v, side in ((x, cols), (y, rows))]
            table.append([f(a) for part in angles for f in (math.sin, math.cos) for a in part])
    return torch.tensor(table)


def sincos_by_outer_products(rows, cols, D):
    w = 1 / 10000 ** torch.linspace(0, 1, D // 4, dtype=torch.float64)
    x, y = torch.arange(cols).repeat(rows), torch.arange(rows).repeat_interleave(cols)
    a, b = torch.outer(x.double(), w), torch.outer(y.double(), w)
    return torch.cat((a.sin(), a.cos(), b.sin(), b.cos()), 1)


@pytest.mark.parametrize("answer", [sincos, sincos_by_outer_products])
def test_fixed_positions_in_any_style_pass(answer, capsys):
    accepted(check_sincos, answer, capsys)


def quarters(order):
    return lambda rows, cols, D: torch.cat(
        [sincos(rows, cols, D).chunk(4, dim=1)[i] for i in order], dim=1
    )


def down_the_columns(rows, cols, D):
    return sincos(rows, cols, D).view(rows, cols, D).transpose(0, 1).reshape(-1, D)


def by_turns(rows, cols, D):
    sin_x, cos_x, sin_y, cos_y = sincos(rows, cols, D).chunk(4, dim=1)
    pairs = [torch.stack(pair, dim=2).flatten(1) for pair in ((sin_x, cos_x), (sin_y, cos_y))]
    return torch.cat(pairs, dim=1)


def by_number(rows, cols, D):
    n = torch.arange(rows * cols)[:, None]
    angles = n / 10000 ** (torch.arange(D // 2) / (D // 2))
    table = torch.zeros(rows * cols, D)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (quarters([2, 3, 0, 1]), "x and y are swapped"),
        (down_the_columns, "the patches go down the columns; reading order"),
        (quarters([1, 0, 3, 2]), "cosine stands before sine"),
        (quarters([0, 2, 1, 3]), "your quarters are sin x, sin y"),
        (by_turns, "sine and cosine take turns"),
        (by_number, "positions in one dimension"),
        (lambda r, c, D: sincos(r, c, D, last=lambda n: n), "the exponents do not end at 1"),
        (lambda r, c, D: sincos(r, c, D, sign=1), "the exponent is negative"),
        (lambda r, c, D: sincos(r, c, D, base=1000.0), "the frequencies end at 1/1000"),
        (lambda r, c, D: sincos(r, c, D, start=1), "count from 0 here, not from 1"),
        (lambda r, c, D: sincos(r, c, D, scale=lambda side: 1 / side), r"scaled to 0\.\.1"),
        (lambda r, c, D: sincos(r, c, D, scale=lambda side: 2 * math.pi), "no 2π in it"),
        (lambda r, c, D: sincos(r, c, D)[None], "drop the leading axis"),
        (lambda r, c, D: sincos(r, c, D).view(r, c, D), "flatten rows and columns"),
        (lambda r, c, D: F.pad(sincos(r, c, D), (0, 0, 1, 0)), "a row too many"),
        (lambda r, c, D: sincos(r, c, D).T, "the result is transposed"),
    ],
    ids=["yx", "columns", "cos first", "sines first", "turns", "1D", "exponent", "sign", "base",
         "from 1", "scaled", "2 pi", "leading", "grid", "class token", "transposed"],
)  # fmt: skip
def test_known_mistakes_with_fixed_positions_get_their_hint(answer, hint):
    rejected(check_sincos, answer, hint)


# ---- a block


def block_in_two_lines(z, norm1, attention, norm2, mlp):
    z = z + attention(norm1(z))
    return z + mlp(norm2(z))


def block_with_names(z, norm1, attention, norm2, mlp):
    residual = z
    z = attention(norm1(z)) + residual
    residual = z
    return residual + mlp(norm2(z))


def block_in_place(z, norm1, attention, norm2, mlp):
    z += attention(norm1(z))
    z += mlp(norm2(z))
    return z


@pytest.mark.parametrize("answer", [block_in_two_lines, block_with_names, block_in_place])
def test_a_block_in_any_style_passes(answer, capsys):
    accepted(check_block, answer, capsys)


def block_after_the_transformer_of_2017(z, norm1, attention, norm2, mlp):
    z = norm1(z + attention(z))
    return norm2(z + mlp(z))


def block_that_forgets_its_stream(z, norm1, attention, norm2, mlp):
    z = norm1(z)
    z = z + attention(z)
    z = norm2(z)
    return z + mlp(z)


def block_whose_second_residual_is_the_input(z, norm1, attention, norm2, mlp):
    residual = z
    z = attention(norm1(z)) + residual
    return mlp(norm2(z)) + residual


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (block_after_the_transformer_of_2017, "this is post-norm"),
        (block_that_forgets_its_stream, "the residual adds the normalised input"),
        (lambda z, n1, a, n2, m: (u := n1(z) + a(n1(z))) + m(n2(u)), "adds the normalised input"),
        (lambda z, n1, a, n2, m: (u := n2(z + a(n1(z)))) + m(u), "adds the normalised input"),
        (lambda z, n1, a, n2, m: m(n2(z + a(n1(z)))), "the second residual is missing"),
        (lambda z, n1, a, n2, m: (u := a(n1(z))) + m(n2(u)), "the first residual is missing"),
        (lambda z, n1, a, n2, m: m(n2(a(n1(z)))), "no residual at all"),
        (lambda z, n1, a, n2, m: z + m(n2(a(n1(z)))), "only one residual"),
        (block_whose_second_residual_is_the_input, "starts from the block's input"),
        (lambda z, n1, a, n2, m: (u := z + a(n1(z))) + m(u), "the MLP reads the stream as it is"),
        (lambda z, n1, a, n2, m: (u := z + a(z)) + m(n2(u)), "attention reads the stream as it is"),
        (lambda z, n1, a, n2, m: (u := z + a(z)) + m(u), "no norm at all"),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n2(z)), "side by side"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n2, a, n1, m), "the norms are mixed up"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n1, a, n1, m), "the norms are mixed up"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n2, m, n1, a), "MLP comes before attention"),
        (lambda z, n1, a, n2, m: (u := z + n1(a(z))) + n2(m(u)), "the norms stand behind"),
        (lambda z, n1, a, n2, m: z + a(n1(z)), "Equation 2 alone"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n1, a, n2, m) / 2, "values are not"),
    ],
    ids=["post", "normed", "normed 1", "normed 2", "no 2nd", "no 1st", "none", "one", "input",
         "bare MLP", "bare attention", "bare", "parallel", "swapped", "one norm", "order", "behind",
         "half", "halved"],
)  # fmt: skip
def test_known_mistakes_with_a_block_get_their_hint(answer, hint):
    rejected(check_block, answer, hint)


# ---- the whole model


def logits_piece_by_piece(images, model):
    e = model.embedding
    z = cat(e.class_token, e.patches(images)) + e.positions
    for block in model.encoder.blocks:
        z = block(z)
    return model.head(model.encoder.norm(z)[:, 0])


def logits_of_each_image(images, model):
    return torch.vstack([model.head(model.features(image[None])) for image in images])


@pytest.mark.parametrize("answer", [logits_piece_by_piece, logits_of_each_image])
def test_a_forward_pass_in_any_style_passes(answer, capsys):
    accepted(check_forward, answer, capsys)


def walk(images, model, embed=None, norm=True, read=lambda z: z[:, 0], blocks=None):
    """Every step written out, with places to go wrong."""
    e = model.embedding
    z = embed(images, e) if embed else cat(e.class_token, e.patches(images)) + e.positions
    for block in model.encoder.blocks if blocks is None else model.encoder.blocks[:blocks]:
        z = block(z)
    return model.head(read(model.encoder.norm(z) if norm else z))


def without_a_place(x, e):
    return cat(e.class_token, e.patches(x) + e.positions[:, 1:])


def behind_the_patches(x, e):
    return cat(e.patches(x), e.class_token) + e.positions


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
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
    ],
    ids=["no norm", "mean", "patches", "softmax", "logs", "class", "no place", "last", "first",
         "all", "behind", "behind, read", "no places", "features", "no block", "one block",
         "two norms", "shifted"],
)  # fmt: skip
def test_known_mistakes_with_the_forward_pass_get_their_hint(answer, hint):
    rejected(check_forward, answer, hint)


# ---- cross-entropy


def loss_by_log_softmax(logits, labels):
    return -logits.log_softmax(dim=1)[range(len(labels)), labels].mean()


def loss_by_logsumexp(logits, labels):
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()


def loss_with_one_hot(logits, labels):
    x = logits - logits.max(dim=1, keepdim=True).values
    hot = F.one_hot(labels, logits.shape[1])
    return (x.exp().sum(1).log() - (x * hot).sum(1)).sum() / len(labels)


@pytest.mark.parametrize("answer", [loss_by_log_softmax, loss_by_logsumexp, loss_with_one_hot])
def test_a_cross_entropy_in_any_style_passes(answer, capsys):
    accepted(check_cross_entropy, answer, capsys)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, y: loss_by_log_softmax(x.softmax(1), y), "a second softmax"),
        (lambda x, y: loss_by_log_softmax(x, y) * len(y), "the sum over the batch"),
        (lambda x, y: x.logsumexp(1) - x[range(len(y)), y], "the loss of each image"),
        (lambda x, y: x.log_softmax(1)[range(len(y)), y].mean(), "the sign is turned round"),
        (lambda x, y: x.logsumexp(1).mean(), "the logit of the true class is missing"),
        (lambda x, y: -x[range(len(y)), y].mean(), "log-sum-exp is missing"),
        (lambda x, y: -x.softmax(1)[range(len(y)), y].log().mean(), "inf or nan for logits up to"),
        (lambda x, y: (x.exp().sum(1).log() - x[range(len(y)), y]).mean(), "inf or nan for logits"),
    ],
    ids=["twice", "sum", "each", "sign", "no logit", "no sum", "log softmax", "overflow"],
)
def test_known_mistakes_with_cross_entropy_get_their_hint(answer, hint):
    rejected(check_cross_entropy, answer, hint)


# ---- a causal mask


def masked(images, model, last, move=None, read=None, norm=True, mask=True):
    """By torch's own mask, with places to go wrong."""
    z = model.embedding(images)
    if last if move is None else move:
        z = torch.cat([z[:, 1:], z[:, :1]], dim=1)
    for block in model.encoder.blocks:
        q, k, v = block.attention.split_heads(block.norm1(z))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=mask)
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


@pytest.mark.parametrize("answer", [masked, masked_with_minus_infinity])
def test_masked_logits_in_any_style_pass(answer, capsys):
    accepted(check_masked_logits, answer, capsys)


def moved_without_their_places(images, model, last):
    e = model.embedding
    parts = [e.class_token, e.patches(images)]
    whole = cat(*(parts[::-1] if last else parts)) + e.positions
    stand_in = torch.nn.Module()
    stand_in.embedding, stand_in.encoder, stand_in.head = lambda _: whole, model.encoder, model.head
    return masked(images, stand_in, last, move=False)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, m, last: m(x), "without a mask"),
        (lambda x, m, last: masked(x, m, False), "should move behind"),
        (lambda x, m, last: masked(x, m, True), "should stay in front"),
        (lambda x, m, last: masked(x, m, last, read=0), "token 0 is read"),
        (lambda x, m, last: masked(x, m, last, read=-1), "token -1 is read"),
        (moved_without_their_places, "their positions did not"),
        (lambda x, m, last: masked(x, m, last, norm=False), "the last LayerNorm is missing"),
        (lambda x, m, last: masked(x, m, last) + 1, "values are not"),
    ],
    ids=["no mask", "first", "last", "read 0", "read -1", "places", "no norm", "shifted"],
)
def test_known_mistakes_with_masked_logits_get_their_hint(answer, hint):
    rejected(check_masked_logits, answer, hint)


# ---- rollout


def rollout_in_a_loop(maps):
    B, L, _, T, _ = maps.shape
    result = torch.eye(T).expand(B, T, T)
    for layer in range(L):
        step = 0.5 * maps[:, layer].mean(1) + 0.5 * torch.eye(T)
        result = step @ result
    return result


def rollout_from_the_output_down(maps):
    eye = torch.eye(maps.shape[-1])
    steps = [(layer.mean(1) + eye) / 2 for layer in maps.unbind(1)]
    result = steps.pop()
    while steps:
        result = result @ steps.pop()
    return result


@pytest.mark.parametrize("answer", [rollout_in_a_loop, rollout_from_the_output_down])
def test_a_rollout_in_any_style_passes(answer, capsys):
    accepted(check_attention_rollout, answer, capsys)


def rolled(maps, fuse=lambda layer: layer.mean(1), eye=1.0, over=-1, normalise=True, left=True):
    """The method of most repositories, with places to go wrong."""
    result = torch.eye(maps.shape[-1]).repeat(len(maps), 1, 1)
    for layer in maps.unbind(1):
        step = fuse(layer) + eye * torch.eye(maps.shape[-1])
        step = step / step.sum(over, keepdim=True) if normalise else step
        result = step @ result if left else result @ step
    return result


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda maps: rolled(maps, eye=0.0), "the identity is left out"),
        (lambda maps: rolled(maps, over=-2), "the columns are normalised"),
        (lambda maps: rolled(maps, left=False), "multiplied in the wrong order"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer.sum(1)), "the heads are summed"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer.amax(1)), "the largest head was taken"),
        (lambda maps: rolled(maps[:, -1:]), "the last block alone"),
        (lambda maps: rolled(maps[:, :1]), "the first block alone"),
        (lambda maps: rolled(maps, normalise=False), "rows are not normalised"),
        (lambda maps: torch.stack([rolled(m[:, None]) for m in maps.unbind(1)]).mean(0),
         "the blocks are averaged"),
        (lambda maps: torch.stack([rolled(m[:, None]) for m in maps.unbind(1)]).prod(0),
         "element by element"),
        (lambda maps: rolled(maps.transpose(-2, -1)), "the maps are transposed before"),
        (lambda maps: rolled(maps)[:, 0], "the class token's row"),
        (lambda maps: rolled(maps).mT, "the result is transposed"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer[:, 0]), "values are not"),
    ],
    ids=["no identity", "columns", "order", "sum", "max", "last", "first", "unnormalised", "mean",
         "elements", "turned before", "class token", "turned", "one head"],
)  # fmt: skip
def test_known_mistakes_with_rollout_get_their_hint(answer, hint):
    rejected(check_attention_rollout, answer, hint)
