"""Chapter 05: right styles and mistakes."""

import math

import torch
from einops import rearrange
from torch.nn import functional as F

from vit_tutorial.checks import (
    check_attention,
    check_attention_weights,
    check_causal,
    check_gradient,
    check_multi_head,
)

RIGHT, WRONG = {}, {}
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


RIGHT[check_attention_weights] = [
    weights_in_one_line,
    weights_by_einsum,
    weights_by_exp,
    weights_row_by_row,
    weights_from_the_fused_kernel,
]


def scores(q, k):
    return torch.einsum("...td,...sd->...ts", q, k)


def causally(q, k):
    s = scores(q, k) / math.sqrt(q.shape[-1])
    mask = torch.tril(torch.ones(s.shape[-2:])) == 0
    return s.masked_fill(mask, float("-inf")).softmax(-1)


WRONG[check_attention_weights] = [
        (lambda q, k: F.softmax(scores(q, k) / math.sqrt(q.size(-1)), dim=-2), "columns sum to 1"),
        (lambda q, k: F.softmax(scores(q, k), dim=-1), "not scaled: divide by √d"),
        (lambda q, k: F.softmax(scores(q, k) / q.size(-1), dim=-1), "are divided by d"),
        (lambda q, k: F.softmax(scores(q, k), dim=-1) / math.sqrt(q.size(-1)), "after the softmax"),
        (lambda q, k: scores(q, k) * q.size(-1) ** -0.5, "the softmax is missing"),
        (lambda q, k: weights_in_one_line(k, q), "q and k are swapped"),
        (lambda q, k: F.softmax(scores(q, k) / q.shape[-2] ** 0.5, -1), "√T, the number of tokens"),
        (causally, "a causal mask"),
        (lambda q, k: F.softmax(scores(q, k) * math.sqrt(q.size(-1)), dim=-1), "multiplied by √d"),
        (lambda q, k: weights_in_one_line(q, k).log(), "logarithms"),
        (lambda q, k: weights_in_one_line(q, q), "with themselves"),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).exp(), "rows do not sum to 1"),
    ]  # fmt: skip


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


RIGHT[check_multi_head] = [
    heads_in_a_loop,
    heads_by_view_and_transpose,
    heads_by_einsum,
    heads_by_the_fused_kernel,
    heads_by_pytorch,
]


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


WRONG[check_multi_head] = [
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
    ]  # fmt: skip


def attention_over_heads(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 1, 3, 4)
    weights = (q @ k.transpose(-2, -1) / (D // h) ** 0.5).softmax(-1)
    return projection((weights @ v).reshape(B, T, D))


def parts_in_order(x, qkv, projection, h, order):
    B, T, D = x.shape
    parts = qkv(x).view(B, T, 3, h, D // h).permute(2, 0, 3, 1, 4)
    q, k, v = (parts[i] for i in order)
    return projection(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, D))


def causal_heads(x, qkv, projection, h):
    q, k, v = rearrange(qkv(x), "b t (n h d) -> n b h t d", n=3, h=h)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return projection(rearrange(y, "b h t d -> b t (h d)"))


WRONG[check_attention_weights] += [
    (lambda q, k: weights_in_one_line(q.detach(), k), "no gradient reaches `q`"),
    (lambda q, k: weights_in_one_line(q, k.data), "no gradient reaches `k`"),
    (lambda q, k: torch.softmax(q @ k.T / q.shape[-1] ** 0.5, -1), "swap the last two axes of k"),
    (lambda q, k: (scores(q, k) / 8**0.5).softmax(-1), "values are not"),
    (lambda q, k: torch.sigmoid(scores(q, k) / q.shape[-1] ** 0.5), "this is a sigmoid"),
    (lambda q, k: weights_in_one_line(q.mul_(1.0).sub_(1.0), k), "writes into its input `q`"),
]

WRONG[check_multi_head] += [
    (attention_over_heads, "over the heads of one token"),
    (
        lambda x, a, b, h: parts_in_order(x, a, b, h, (1, 0, 2)),
        "the keys were taken for the queries",
    ),
    (lambda x, a, b, h: parts_in_order(x, a, b, h, (0, 2, 1)), "keys and values are swapped"),
    (lambda x, a, b, h: parts_in_order(x, a, b, h, (2, 1, 0)), "the values come last"),
    (causal_heads, "a causal mask"),
    (lambda x, a, b, h: x + with_heads(x, a, b, h), "the input is added"),
    (lambda x, a, b, h: with_heads(x.detach(), a, b, h), "no gradient reaches `x`"),
    (lambda x, a, b, h: with_heads(x, a, b, 3), "stopped with"),
    (
        lambda x, a, b, h: with_heads(x, a, lambda y: F.linear(y, b.weight.data, b.bias), h),
        "no gradient reaches `b.weight`",
    ),
]
WRONG[check_multi_head].remove(next(c for c in WRONG[check_multi_head] if c[1] == "values are not"))


def read_by_the_kernel(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def read_by_einsum(q, k, v):
    return torch.einsum("...ts,...sd->...td", weights_by_einsum(q, k), v)


RIGHT[check_attention] = [read_by_the_kernel, read_by_einsum]
WRONG[check_attention] = [
    (lambda q, k, v: weights_in_one_line(q, k), "multiply them with v"),
    (lambda q, k, v: (scores(q, k) / q.shape[-1] ** 0.5).softmax(-2) @ v, "the wrong axis"),
    (lambda q, k, v: scores(q, k).softmax(-1) @ v, "not scaled"),
    (lambda q, k, v: (scores(q, k) / q.shape[-1]).softmax(-1) @ v, "not by √d"),
    (lambda q, k, v: (scores(q, k) / q.shape[-2] ** 0.5).softmax(-1) @ v, "divided by √T"),
    (lambda q, k, v: scores(q, k).softmax(-1) / q.shape[-1] ** 0.5 @ v, "after the softmax"),
    (lambda q, k, v: scores(q, k) / q.shape[-1] ** 0.5 @ v, "the softmax is missing"),
    (lambda q, k, v: read_by_einsum(k, q, v), "q and k are swapped"),
    (lambda q, k, v: read_by_einsum(q, k, k), "k is read"),
    (lambda q, k, v: read_by_einsum(q, k, q), "q is read"),
    (lambda q, k, v: read_by_einsum(q, q, v), "with themselves"),
    (lambda q, k, v: read_by_einsum(q * q.shape[-1], k, v), "multiplied by √d"),
    (lambda q, k, v: v + read_by_einsum(q, k, v), "v itself is added"),
    (lambda q, k, v: 2 * read_by_einsum(q, k, v), "each is 2 times what it should be"),
    (lambda q, k, v: weights_in_one_line(q, k).transpose(-2, -1) @ v, "transposed"),
    (lambda q, k, v: causally(q, k) @ v, "a causal mask"),
    (lambda q, k, v: read_by_einsum(q, k, v.detach()), "no gradient reaches `v`"),
    (lambda q, k, v: read_by_einsum(q.detach(), k.detach(), v), "no gradient reaches `q`"),
    (lambda q, k, v: torch.softmax(q @ k.t() / q.shape[-1] ** 0.5, -1) @ v, "k.mT"),
]


def causal_by_cutting(q, k):
    return (whole := weights_by_exp(q, k).tril()) / whole.sum(-1, keepdim=True)


RIGHT[check_causal] = [causally, causal_by_cutting]


def hidden(q, k, diagonal=1, fill=-torch.inf, scale=0.5, dim=-1, lower=False):
    T = q.shape[-2]
    mask = torch.ones(T, T, dtype=torch.bool).triu(diagonal)
    mask = mask.T if lower else mask
    return (scores(q, k) / q.shape[-1] ** scale).masked_fill(mask, fill).softmax(dim)


WRONG[check_causal] = [
    (weights_in_one_line, "still reads what comes after it"),
    (lambda q, k: weights_in_one_line(q, k).tril(), "the mask comes after the softmax"),
    (lambda q, k: hidden(q, k, fill=0.0), "a score of 0 is still read"),
    (lambda q, k: hidden(q, k, diagonal=2), "token t reads token t"),
    (lambda q, k: hidden(q, k, diagonal=0), "nothing to read"),
    (lambda q, k: hidden(q, k, lower=True), "the mask is turned"),
    (lambda q, k: hidden(q, k, scale=0.0), "not divided by √d"),
    (lambda q, k: hidden(q, k, scale=1.0), "divided by d"),
    (lambda q, k: hidden(q, k, dim=-2), "the columns sum to 1"),
    (lambda q, k: hidden(q, k, fill=1e-9), "values are not|still read"),
    (lambda q, k: hidden(q.detach(), k), "no gradient reaches `q`"),
    (lambda q, k: hidden(k, q), "q and k are swapped"),
]


def gradient_by_backward(q, k, v, scale):
    q.requires_grad_()
    ((q @ k.T * scale).softmax(dim=-1) @ v).sum().backward()
    return (q.grad / scale).norm(dim=-1).median()


def gradient_by_grad(q, k, v, scale):
    q = q.clone().requires_grad_()
    answer = torch.softmax(torch.einsum("td,sd->ts", q, k) * scale, -1) @ v
    (g,) = torch.autograd.grad(answer.sum(), [q])
    return float(g.pow(2).sum(-1).sqrt().median()) / scale


RIGHT[check_gradient] = [gradient_by_backward, gradient_by_grad]


def pulled(q, k, v, scale, dim=-1, at="q", read=True):
    q, k = q.clone().requires_grad_(), k.clone().requires_grad_()
    weights = (q @ k.T * scale).softmax(dim)
    answer = (weights @ v).sum() if read else weights.sum()
    return torch.autograd.grad(answer, q if at == "q" else k)[0]


WRONG[check_gradient] = [
    (lambda q, k, v, s: pulled(q, k, v, s).norm(dim=-1).median(), "divide the gradient by scale"),
    (lambda q, k, v, s: (pulled(q, k, v, s) * s).norm(dim=-1).median(), "multiplied by scale"),
    (lambda q, k, v, s: (pulled(q, k, v, s) / s).norm(dim=-1).mean(), "take the median"),
    (lambda q, k, v, s: (pulled(q, k, v, s) / s).norm(), "one norm for each query"),
    (lambda q, k, v, s: (pulled(q, k, v, s) / s).norm(dim=0).median(), "runs over the queries"),
    (lambda q, k, v, s: (pulled(q, k, v, s, dim=0) / s).norm(dim=-1).median(), "over the columns"),
    (lambda q, k, v, s: (pulled(q, k, v, s, at="k") / s).norm(dim=-1).median(), "at the keys"),
    (
        lambda q, k, v, s: (pulled(q, k, v, s, read=False) / s).norm(dim=-1).median(),
        "multiply them with v",
    ),
    (lambda q, k, v, s: q.grad.norm(), "requires_grad_"),
    (lambda q, k, v, s: pulled(q, k, v, s), "should return a number, not a tensor of shape"),
]


def nan_by_zero_times_infinity(q, k):
    s = scores(q, k) / q.shape[-1] ** 0.5
    return (s + torch.ones(s.shape[-2:]).triu(1) * -torch.inf).softmax(-1)


def by_a_float_mask(q, k):
    s = scores(q, k) / q.shape[-1] ** 0.5
    return s.masked_fill(torch.ones(s.shape[-2:]).triu(1), -torch.inf).softmax(-1)


def by_a_mask_of_axis_1(q, k):
    T = q.shape[1]
    s = scores(q, k) / q.shape[-1] ** 0.5
    mask = torch.ones(T, T, dtype=torch.bool).triu(1)
    return s.masked_fill(mask, -torch.inf).softmax(-1)


WRONG[check_causal] += [
    (nan_by_zero_times_infinity, "a 0 multiplied by -inf"),
    (by_a_float_mask, "dtype=torch.bool"),
    (by_a_mask_of_axis_1, "T = q.shape"),
    (lambda q, k: weights_in_one_line(q, k).triu(), "and is turned"),
]


def gradient_in_a_tuple(q, k, v, scale):
    q = q.clone().requires_grad_()
    g = torch.autograd.grad(((q @ k.T * scale).softmax(-1) @ v).sum(), q)
    return (g / scale).norm(dim=-1).median()


def gradient_in_a_tuple_without_its_norm(q, k, v, scale):
    q = q.clone().requires_grad_()
    g = torch.autograd.grad(((q @ k.T * scale).softmax(-1) @ v).sum(), q)
    return g.norm(dim=-1).median() / scale


WRONG[check_gradient] += [
    (gradient_in_a_tuple, "gives a tuple"),
    (gradient_in_a_tuple_without_its_norm, "gives a tuple"),
    (
        lambda q, k, v, s: (pulled(q, k, v, 1 / s) / s).norm(dim=-1).median(),
        "the product is divided by scale",
    ),
    (
        lambda q, k, v, s: (pulled(q, k, v, 1 / s) * s).norm(dim=-1).median(),
        "the product is divided by scale",
    ),
]
WRONG[check_attention_weights] += [
    (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).softmax(1), "count axes from the end"),
]


def there_and_back(x, qkv, projection, h):
    B, T, D = x.shape
    q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, -1))
    return projection(F.scaled_dot_product_attention(q, k, v).reshape(B, T, D))


WRONG[check_multi_head] += [
    (there_and_back, "and straight back"),
    (lambda x, a, b, h: with_heads(x, a, b, 1, scale=(x.shape[-1] / h) ** -0.5), "√d of a small"),
]
