"""Chapter 05: attention weights, one head, and many heads in one product."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.attention import attention_weights
from vit_tutorial.checks.core import (
    CheckFailed,
    Mistakes,
    Slips,
    compare,
    exercise,
    is_number,
    learning,
)

Part = Callable[[Tensor], Tensor]

AXES: Slips = [
    (r"mat1 and mat2|must match|size|t\(\) expects", "q and k have any number of leading axes "
     "(batch, heads): swap the last two axes of k, k.mT, and nothing else."),
]  # fmt: skip


def causal(q: Tensor) -> Tensor:
    """What a causal mask adds to the scores: minus infinity for every later token."""
    return torch.full((q.shape[-2],) * 2, -math.inf).triu(1)


@exercise
def check_attention_weights(implementation: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Check `my_attention_weights(q (... T d), k (... T d)) -> (... T T)`; CheckFailed hints."""

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)

    mistakes: Mistakes = [
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).softmax(dim=-2),
         "the columns sum to 1, not the rows: row t is what token t reads, so "
         "the softmax runs over the last axis."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).softmax(dim=1),
         "the softmax runs over axis 1, which is the last one only without images and heads: "
         "count axes from the end, dim=-1."),
        (lambda q, k: scores(q, k).softmax(dim=-1),
         "the scores are not scaled: divide by √d before the softmax."),
        (lambda q, k: (scores(q, k) / q.shape[-1]).softmax(dim=-1),
         "the scores are divided by d; the standard deviation of a sum of d "
         "products is √d."),
        (lambda q, k: (scores(q, k) * q.shape[-1] ** 0.5).softmax(dim=-1),
         "the scores are multiplied by √d: divide."),
        (lambda q, k: (scores(q, q) / q.shape[-1] ** 0.5).softmax(dim=-1),
         "the queries are compared with themselves, not with the keys."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).sigmoid(),
         "this is a sigmoid, which weighs each score alone; the softmax makes the rows sum to 1."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).exp(),
         "rows do not sum to 1: divide each by its sum, which softmax does."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).log_softmax(dim=-1),
         "these are the logarithms of the weights: softmax."),
        (lambda q, k: scores(q, k).softmax(dim=-1) / q.shape[-1] ** 0.5,
         "the scale comes after the softmax, so rows no longer sum to 1: scale "
         "the scores."),
        (lambda q, k: scores(q, k) / q.shape[-1] ** 0.5,
         "these are the scaled scores; the softmax is missing."),
        (lambda q, k: (scores(k, q) / q.shape[-1] ** 0.5).softmax(dim=-1),
         "q and k are swapped: row t should belong to the query of token t."),
        (lambda q, k: (scores(q, k) / q.shape[-2] ** 0.5).softmax(dim=-1),
         "the scores are divided by √T, the number of tokens; use √d, the size "
         "of a query."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5 + causal(q)).softmax(dim=-1),
         "tokens read only what stands before them: a causal mask, as in GPT. "
         "In an image every patch may read every patch."),
    ]  # fmt: skip

    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5, 16), (2, 4, 6, 8)]
    trials = [tuple(torch.randn(2, *shape, generator=generator).unbind()) for shape in shapes]
    return compare(implementation, attention_weights, trials, mistakes, AXES)


@exercise
def check_attention(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Check `my_attention(q (... T d), k (... T d), v (... T d)) -> (... T d)`."""

    def read(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, axis: int = -1) -> Tensor:
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        return scores.softmax(dim=axis) @ v

    mistakes: Mistakes = [
        (lambda q, k, v: attention_weights(q, k), "these are the weights: "
         "multiply them with v."),
        (lambda q, k, v: read(q, k, v, axis=-2), "the softmax runs over the "
         "wrong axis: row t is what token t reads, so each row must sum to 1."),
        (lambda q, k, v: read(q, k, v, scale=1.0), "the scores are not scaled: "
         "divide by √d before the softmax."),
        (lambda q, k, v: read(q, k, v, scale=1 / q.shape[-1]),
         "the scores are divided by d, not by √d."),
        (lambda q, k, v: read(q, k, v, scale=q.shape[-2] ** -0.5),
         "the scores are divided by √T; use √d, the size of a query."),
        (lambda q, k, v: (q @ k.mT).softmax(dim=-1) / q.shape[-1] ** 0.5 @ v,
         "the scale comes after the softmax: scale the scores."),
        (lambda q, k, v: q @ k.mT / q.shape[-1] ** 0.5 @ v,
         "the softmax is missing."),
        (lambda q, k, v: read(k, q, v), "q and k are swapped: row t belongs to "
         "the query of token t."),
        (lambda q, k, v: read(q, k, k), "k is read; what a token hands over is "
         "its value, v."),
        (lambda q, k, v: read(q, k, q), "q is read; what a token hands over is its value, v."),
        (lambda q, k, v: read(q, q, v), "the queries are compared with themselves, not with the "
         "keys."),
        (lambda q, k, v: read(q, k, v, scale=q.shape[-1] ** 0.5), "the scores are multiplied by "
         "√d: divide."),
        (lambda q, k, v: v + read(q, k, v), "v itself is added: the residual belongs to the "
         "block."),
        (lambda q, k, v: attention_weights(q, k).mT @ v,
         "the weights are transposed before they meet v."),
        (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5 + causal(q)).softmax(dim=-1) @ v,
         "a causal mask, as in GPT: in an image every patch may read every "
         "patch."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5, 16), (2, 4, 6, 8), (1, 4, 4)]
    trials = [tuple(torch.randn(3, *shape, generator=generator).unbind()) for shape in shapes]
    return compare(implementation, read, trials, mistakes, AXES)


@exercise
def check_causal(implementation: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Check `my_causal_weights(q (... T d), k (... T d)) -> (... T T)`, 0 right of the diagonal."""

    def masked(
        q: Tensor, k: Tensor, hide: Callable[[Tensor], Tensor], scale: float = 0.5
    ) -> Tensor:
        return hide(q @ k.mT / q.shape[-1] ** scale).softmax(dim=-1)

    def later(scores: Tensor, first: int = 1, fill: float = -math.inf) -> Tensor:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(first)
        return scores.masked_fill(hidden, fill)

    late = "the mask comes after the softmax, so rows no longer sum to 1: mask the scores."
    mistakes: Mistakes = [
        (attention_weights, "a token still reads what comes after it: no mask yet."),
        (lambda q, k: attention_weights(q, k).tril(), late),
        (lambda q, k: attention_weights(q, k).triu(), "the mask comes after the softmax, and is "
         "turned: mask the scores, right of the diagonal."),
        (lambda q, k: masked(q, k, lambda s: later(s, fill=0.0)),
         "a score of 0 is still read, since e^0 = 1: hide with -inf."),
        (lambda q, k: masked(q, k, lambda s: later(s, first=2)),
         "token t reads token t + 1 too: hide everything right of the diagonal, "
         "triu(1)."),
        (lambda q, k: masked(q, k, lambda s: later(s.mT).mT),
         "the mask is turned: each token reads only itself and what comes after "
         "it."),
        (lambda q, k: masked(k, q, later), "q and k are swapped: row t belongs to the query of "
         "token t."),
        (lambda q, k: masked(q, k, lambda s: later(s, first=0, fill=-1e9)), "a token may not read "
         "itself: leave the diagonal open, triu(1)."),
        (lambda q, k: masked(q, k, later, scale=0.0),
         "the scores are not divided by √d."),
        (lambda q, k: masked(q, k, later, scale=1.0),
         "the scores are divided by d, not by √d."),
        (lambda q, k: later(q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-2),
         "the columns sum to 1, not the rows: the softmax runs over the last "
         "axis."),
        (lambda q, k: later(attention_weights(q, k)),
         "these weights hold -inf: the mask belongs on the scores, before the "
         "softmax."),
    ]  # fmt: skip

    @wraps(implementation)
    def readable(q: Tensor, k: Tensor) -> Any:
        weights = implementation(q, k)
        if isinstance(weights, Tensor) and weights.isnan().any():
            if weights.isnan().all():
                why = ("everything is nan: is a 0 multiplied by -inf? That gives nan. Set the "
                       "scores themselves, masked_fill(mask, -torch.inf).")  # fmt: skip
            else:
                why = ("a row is nan, because it has nothing to read: each token may read itself, "
                       "so leave the diagonal open.")  # fmt: skip
            raise CheckFailed(f"{implementation.__name__}: {why}")
        return weights

    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 8), (4, 4), (2, 3, 6, 16)]
    trials = [tuple(torch.randn(2, *shape, generator=generator).unbind()) for shape in shapes]
    slips: Slips = [
        (r"boolean mask|bool", "masked_fill takes a mask of true and false: torch.ones(T, T, "
         "dtype=torch.bool).triu(1)."),
        (r"broadcast|must match the size|must match the existing size", "q and k have any number "
         "of leading axes (batch, heads): the mask is (T T) with T = q.shape[-2], and k.mT swaps "
         "the last two axes of k."),
        *AXES,
    ]  # fmt: skip
    return compare(readable, lambda q, k: masked(q, k, later), trials, mistakes, slips)


@exercise
def check_gradient(implementation: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> bool:
    """Check `my_gradient(q (T d), k (T d), v (T d), scale) -> number`.

    The median, over the queries, of the norm of the gradient of (softmax(q kᵀ · scale) v).sum() at
    a query, divided by `scale`.
    """

    def pull(q: Tensor, k: Tensor, v: Tensor, scale: float, read: Any = None) -> Tensor:
        q = q.clone().requires_grad_()
        answer = read or (lambda scores: scores.softmax(dim=-1) @ v)
        return torch.autograd.grad(answer(q @ k.mT * scale).sum(), q)[0]

    def divided(q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
        return typical(pull(q, k, v, 1 / scale) / scale)

    def typical(gradient: Tensor) -> float:
        return float(gradient.norm(dim=-1).median())

    def reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
        return typical(pull(q, k, v, scale) / scale)

    def at_the_key(q: Tensor, k: Tensor, v: Tensor, scale: float) -> float:
        k = k.clone().requires_grad_()
        answer = (q @ k.mT * scale).softmax(dim=-1) @ v
        return typical(torch.autograd.grad(answer.sum(), k)[0] / scale)

    mistakes: Mistakes = [
        (lambda *a: typical(pull(*a)), "the scale's own factor is still in it: "
         "divide the gradient by scale."),
        (lambda *a: typical(pull(*a) * a[3]), "multiplied by scale: divide."),
        (lambda *a: float((pull(*a) / a[3]).norm(dim=-1).mean()),
         "this is the mean over the queries; a few large ones decide it. Take "
         "the median."),
        (lambda *a: float((pull(*a) / a[3]).norm()), "this is the norm of all "
         "queries' gradients together: one norm for each query, over the last "
         "axis, then the median."),
        (lambda *a: float((pull(*a) / a[3]).norm(dim=0).median()),
         "the norm runs over the queries; it runs over the numbers of a query, "
         "dim=-1."),
        (divided, "the product is divided by scale: multiply by it, softmax(q kᵀ · scale)."),
        (lambda q, k, v, scale: divided(q, k, v, scale) * scale**2, "the product is divided by "
         "scale: multiply by it, softmax(q kᵀ · scale)."),
        (at_the_key, "this is the gradient at the keys; take it at q."),
    ]  # fmt: skip

    @wraps(implementation)
    def nonzero(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Any:
        found = learning(implementation)(q, k, v, scale)
        if scale == 1 and is_number(found) and abs(float(found)) < 1e-9:
            raise CheckFailed(
                f"{implementation.__name__}: no gradient arrives at the queries. Weights that sum "
                "to 1 say nothing when they are summed: multiply them with v first, and let the "
                "softmax run over the rows, not over the columns."
            )
        return found

    trials = [(*torch.randn(3, T, d).double(), scale)
              for T, d, scale in [(20, 16, 1.0), (20, 16, 0.25), (9, 64, 0.125)]]  # fmt: skip
    slips: Slips = [
        (r"'tuple'|must be Tensor, not tuple|of 'tuple' and", "torch.autograd.grad gives a tuple, "
         "one gradient for each tensor: (g,) = torch.autograd.grad(...)."),
        (r"does not require grad|NoneType|no attribute", "call q.requires_grad_() before the "
         "product, and backward() before q.grad is read."),
    ]  # fmt: skip
    given = [(learning(mistake), hint) for mistake, hint in mistakes]
    return compare(nonzero, learning(reference), trials, given, slips, gradients=False)


@exercise
def check_multi_head(
    implementation: Callable[[Tensor, nn.Linear, nn.Linear, int], Tensor],
) -> bool:
    """Check `my_multi_head(x (B T D), qkv, projection, h) -> (B T D)`; CheckFailed has a hint.

    `qkv` is Linear(D, 3D), whose outputs are packed (3 h d); `projection` is Linear(D, D).
    """
    slips: Slips = [
        (r"invalid for input|unpack|einops|rearrange|size",
         "qkv(x) is (B T 3D), packed (3 h d) with d = D/h; B, T and D differ "
         "from call to call."),
    ]  # fmt: skip
    return compare(implementation, heads, head_trials(), head_mistakes(), slips)


def head_trials() -> list[tuple[Tensor, nn.Linear, nn.Linear, int]]:
    """Tokens, qkv, projection and h; the scores are large enough for a wrong scale to show."""
    trials = [
        (torch.randn(B, T, D), nn.Linear(D, 3 * D), nn.Linear(D, D), h)
        for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 4, 8, 2)]
    ]
    for _, qkv, _, _ in trials:
        nn.init.normal_(qkv.weight, std=0.7)
    return trials


def heads(
    x: Tensor, qkv: Part, projection: Part, h: int, pack: str = "(n h d)",
    scale: Callable[[int, int], float] = lambda d, h: math.sqrt(d), join: str = "B T (h d)",
    axis: int | None = -1, order: tuple[int, int, int] = (0, 1, 2), mask: bool = False,
    change: Callable[[Tensor, int], Tensor] = lambda weights, d: weights,
) -> Tensor:  # fmt: skip
    """Multi-head attention, right or wrong by what is given."""
    parts = rearrange(qkv(x), f"B T {pack} -> n B h T d", n=3, h=h)
    q, k, v = (parts[i] for i in order)
    scores = q @ k.mT / scale(q.shape[-1], h)
    scores = scores + causal(q) if mask else scores
    weights = scores if axis is None else scores.softmax(dim=axis)
    return projection(rearrange(change(weights, q.shape[-1]) @ v, f"B h T d -> {join}"))


def scrambled(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
    B, T, D = x.shape
    q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, dim=-1))
    return projection((attention_weights(q, k) @ v).transpose(1, 2).reshape(B, T, D))


def in_one_go(
    x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int, shape: str
) -> Tensor:  # fmt: skip
    B, T, D = x.shape
    sizes = {"n": 3, "B": B, "h": h, "T": T, "d": D // h}
    parts = qkv(x).reshape([sizes[axis] for axis in shape.split()])
    q, k, v = rearrange(parts, f"{shape} -> n B h T d")
    return projection(rearrange(attention_weights(q, k) @ v, "B h T d -> B T (h d)"))


def not_moved_back(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
    q, k, v = rearrange(qkv(x), "B T (n h d) -> n B h T d", n=3, h=h)
    return projection((attention_weights(q, k) @ v).reshape(x.shape))


def scrambled_twice(x: Tensor, qkv: nn.Linear, projection: nn.Module, h: int) -> Tensor:
    B, T, D = x.shape
    q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, dim=-1))
    return projection((attention_weights(q, k) @ v).reshape(B, T, D))


def over_heads(x: Tensor, qkv: nn.Linear, projection: nn.Module, h: int) -> Tensor:
    q, k, v = rearrange(qkv(x), "B T (n h d) -> n B T h d", n=3, h=h)
    return projection((attention_weights(q, k) @ v).flatten(2))


def own_slice(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
    parts = rearrange(x, "B T (h d) -> B h T d", h=h)
    weight = rearrange(qkv.weight, "(n h d) (g e) -> n h g d e", n=3, h=h, g=h)
    weight = weight.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (n h d e)
    bias = rearrange(qkv.bias, "(n h d) -> n h 1 d", n=3, h=h)
    q, k, v = torch.einsum("bhte,nhde->nbhtd", parts, weight) + bias[:, None]
    return projection(rearrange(attention_weights(q, k) @ v, "B h T d -> B T (h d)"))


def head_mistakes() -> Mistakes:
    """What goes wrong between qkv and the projection."""
    return [
        (scrambled_twice, "a reshape straight to (B, h, T, d), and straight back, mixes tokens "
         "with channels: split D into (h, d) first, then swap the axes T and h; and swap them back "
         "before joining."),
        (lambda x, qkv, p, h: heads(x, qkv, p, 1, scale=lambda d, _: math.sqrt(d / h)),
         "this is one large head, scaled by the √d of a small one; split D into h heads."),
        (scrambled, "a reshape straight to (B, h, T, d) mixes tokens with "
         "channels: right shape, wrong values. Split D into (h, d) first, then "
         "swap the axes T and h."),
        *((lambda x, qkv, p, h, shape=shape: in_one_go(x, qkv, p, h, shape), "a reshape of qkv(x) "
           "straight into three parts mixes tokens with channels: first split the last axis, "
           ".unflatten(-1, (3, h, -1)), then move axes with permute.")
          for shape in ("n B h T d", "n B T h d", "B n h T d", "B h T n d", "B n T h d")),
        (not_moved_back, "the heads were joined without moving T back in front "
         "of h: rearrange (B h T d) to (B T h d) before flattening."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(h n d)"),
         "qkv is packed (3 h d): all queries, then all keys, then all values."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(n d h)"),
         "within D the heads come first, (h d): head i owns d neighbouring "
         "columns."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, join="B T (d h)"),
         "joined as (d h): put each head's d numbers side by side, (h d)."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: math.sqrt(d * h)),
         "scaled by √D; each head compares vectors of d = D/h numbers, so use "
         "√d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: d),
         "scaled by d, not by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: 1.0),
         "the scores are not scaled by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: 1 / math.sqrt(d)),
         "the scores are multiplied by √d: divide."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: math.sqrt(x.shape[1])),
         "scaled by √T, the number of tokens; use √d, the size of a query."),
        (lambda x, qkv, p, h: heads(
            x, qkv, p, h, scale=lambda d, h: 1, change=lambda w, d: w / math.sqrt(d)),
         "the scale comes after the softmax, so rows no longer sum to 1: divide the scores by √d, "
         "and then take the softmax."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=None), "the softmax is missing."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=-2),
         "the softmax runs over the wrong axis, the queries, so columns sum to 1 and not rows: "
         "row t is what token t reads, dim=-1."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=-3),
         "the softmax runs over the wrong axis, the heads: it runs over the tokens that are read, "
         "dim=-1."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=0),
         "the softmax runs over the wrong axis, the images: it runs over the tokens that are read, "
         "dim=-1."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, change=lambda w, d: w.mT),
         "the weights are transposed before they meet v."),
        (lambda x, qkv, p, h: heads(x, lambda y: y @ qkv.weight.mT, p, h),
         "the bias of qkv is not used."),
        (lambda x, qkv, p, h: heads(x, qkv, lambda y: y @ p.weight.mT, h),
         "the bias of the projection is not used."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, order=(0, 1, 1)),
         "k is read; what a token hands over is its value, v."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, order=(0, 0, 2)),
         "the queries are compared with themselves, not with the keys."),
        (lambda x, qkv, projection, h: heads(x, qkv, nn.Identity(), h),
         "the output projection is missing: without it the heads are never mixed."),
        (lambda x, qkv, projection, h: heads(x, qkv, projection, 1),
         "this is one large head; split D into h heads."),
        (own_slice, "each head sees only its own slice of the input; every head "
         "should read all D numbers of a token."),
        (over_heads, "attention runs over the heads of one token, not over the "
         "tokens: bring q, k and v to (B h T d) before the products."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, order=(1, 0, 2)),
         "the keys were taken for the queries: the first third of qkv's outputs "
         "are the queries."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, order=(0, 2, 1)),
         "keys and values are swapped: the order is q, k, v."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, order=(2, 1, 0)),
         "the values come last in qkv: the order is q, k, v."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, mask=True),
         "a causal mask, as in GPT: in an image every patch may read every "
         "patch."),
        (lambda x, qkv, p, h: x + heads(x, qkv, p, h),
         "the input is added; the residual belongs to the block, not to "
         "attention."),
    ]  # fmt: skip
