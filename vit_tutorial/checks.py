"""Self-checks for the exercises: they test values, and say which mistake the values point to."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.attention import attention_weights
from vit_tutorial.attention_maps import attention_rollout
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.patches import patchify
from vit_tutorial.positions import sincos_positions
from vit_tutorial.train import schedule


class CheckFailed(AssertionError):
    """An exercise is not right yet; the message says what to look at."""


Mistakes = list[tuple[Callable[..., Tensor], str]]  # what a mistake computes, and the hint


def check(
    implementation: Callable[..., Any],
    reference: Callable[..., Tensor],
    trials: list[tuple[Any, ...]],
    mistakes: Mistakes,
) -> None:
    """Compare with the reference on every trial; name the mistake whose values these are."""
    name = implementation.__name__
    for arguments in trials:
        expected, got = reference(*arguments), implementation(*arguments)
        if got is None:
            print(f"○ {name} gave nothing back yet: write its body, and return the result")
            return
        if not isinstance(got, Tensor):
            raise CheckFailed(f"{name} should return a tensor, not {type(got).__name__}")
        if agree(got, expected):
            continue
        for mistake, hint in mistakes:
            if agree(got, mistake(*arguments)):
                raise CheckFailed(f"{name}: {hint}")
        if got.shape != expected.shape:
            shapes = f"{tuple(got.shape)}, expected {tuple(expected.shape)}"
            raise CheckFailed(f"{name}: the result has shape {shapes}")
        off = (got - expected).abs().max().item()
        raise CheckFailed(
            f"{name}: the shape is right but the values are not; the largest difference is "
            f"{off:.3g}. Try it on a tensor small enough to work out by hand."
        )
    inputs = "1 input" if len(trials) == 1 else f"{len(trials)} inputs"
    print(f"✓ {name} is right: {inputs}, every value compared")


def agree(got: Tensor, expected: Tensor) -> bool:
    """Equal in shape, and in values up to rounding."""
    return got.shape == expected.shape and torch.allclose(got.to(expected), expected, atol=1e-5)


def check_patchify(implementation: Callable[[Tensor, int], Tensor]) -> None:
    """Check `my_patchify(images (B C H W), P) -> (B N C*P*P)`; raises CheckFailed with a hint."""

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda images, P: rearrange(images, f"B C (r i) (c j) -> {pattern}", i=P, j=P)

    def reshaped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        return images.reshape(B, (H // P) * (W // P), C * P * P)

    def swapped(images: Tensor, P: int) -> Tensor:
        B, C, H, W = images.shape
        folded = images.unfold(2, P, P).unfold(3, P, P)  # (B C rows cols P P)
        return folded.reshape(B, (H // P) * (W // P), C * P * P)

    mistakes: Mistakes = [
        (reshaped, "a plain reshape has the right shape and the wrong pixels: it takes C·P·P "
         "numbers in reading order, which is pieces of rows. Split H and W first, then move axes."),
        (swapped, "the channel axis still leads, so a patch mixes pixels of several patches. Move "
         "C behind the two grid axes before flattening."),
        (cut("B (c r) (C i j)"), "patches come column by column; reading order goes along a row "
         "of the grid first."),
        (cut("B (r c) (i j C)"), "inside a patch the channels come last, (Ph Pw C); this book "
         "uses (C Ph Pw), so that a convolution's kernel can be flattened into the projection."),
        (cut("B (r c) (C j i)"), "inside a patch rows and columns are swapped: every patch is "
         "transposed."),
        (cut("B (r c) C (i j)"), "each patch still has its channels apart: flatten C, Ph and Pw "
         "into one axis."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [((2, 3, 8, 12), 4), ((1, 1, 28, 28), 7), ((3, 2, 6, 4), 2)]
    trials = [(torch.rand(*shape, generator=generator), P) for shape, P in shapes]
    check(implementation, patchify, trials, mistakes)


def check_projection(
    implementation: Callable[[Tensor, Tensor, Tensor, int], Tensor],
) -> None:
    """Check `my_projection(images (B C H W), weight, bias, P) -> (B N D)`; CheckFailed has a hint.

    `weight` (D, C*P*P) and `bias` (D,) are those of a linear layer.
    """

    def project(
        x: Tensor, weight: Tensor, bias: Tensor | float, P: int, cut: str = "B (r c) (C i j)"
    ) -> Tensor:
        return rearrange(x, f"B C (r i) (c j) -> {cut}", i=P, j=P) @ weight.mT + bias

    def cut(pattern: str) -> Callable[..., Tensor]:
        return lambda x, weight, bias, P: project(x, weight, bias, P, f"B {pattern}")

    def reshaped(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return x.reshape(len(x), -1, weight.shape[1]) @ weight.mT + bias

    def as_maps(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        tokens = project(x, weight, bias, P)
        return rearrange(tokens, "B (r c) D -> B D r c", r=x.shape[2] // P)

    def not_moved(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return as_maps(x, weight, bias, P).reshape(len(x), -1, len(weight))

    def untransposed(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        square = weight.shape[0] == weight.shape[1]  # elsewhere the product does not exist
        return project(x, weight.mT if square else weight, bias, P)

    def folded(x: Tensor, weight: Tensor, bias: Tensor, P: int) -> Tensor:
        return project(x, weight.reshape(weight.shape[::-1]).mT, bias, P)

    mistakes: Mistakes = [
        (lambda x, weight, bias, P: project(x, weight, 0.0, P),
         "the bias is missing: add its D numbers to every token."),
        (untransposed, "here C·P·P = D, so `patches @ weight` runs, and is wrong: a linear layer "
         "keeps its weight as (D, C·P·P), one row for each output. Use weight.T."),
        (folded, "the weight was reshaped to (C·P·P, D), which moves nothing: transpose it, "
         "weight.T."),
        (reshaped, "the patches were cut by a plain reshape: right shape, wrong pixels. Use "
         "patchify(images, P) of chapter 01."),
        (cut("(r c) (i j C)"), "inside a patch the channels come last, (Ph Pw C), but the weights "
         "wait for (C Ph Pw): all of one channel first."),
        (cut("(r c) (C j i)"), "inside a patch rows and columns are swapped: every patch is "
         "transposed."),
        (cut("(c r) (C i j)"), "patches come column by column; reading order goes along a row of "
         "the grid first."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1], bias, P),
         "the products are averaged: a token's number is their sum."),
        (lambda x, weight, bias, P: project(x, weight / weight.shape[1] ** 0.5, bias, P),
         "the result is divided by √(C·P·P); the scale belongs into the first weights, not here."),
        (not_moved, "the maps of the convolution, (B D rows cols), were reshaped to (B N D) "
         "without moving D: flatten the grid first, then swap the last two axes."),
        (as_maps, "these are the maps of a convolution, (B D rows cols): flatten the grid and "
         "move D to the end."),
        (lambda x, weight, bias, P: project(x, weight, bias, P).mT,
         "the result is (B D N): swap the last two axes, so that each row is a token."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, 8, 12, 4, 48), (1, 1, 28, 28, 7, 10), (3, 2, 6, 4, 2, 5)]  # B C H W P D
    trials = []
    for B, C, H, W, P, D in sizes:  # in the first, as in ViT-B/16, C·P·P happens to be D
        images = torch.rand(B, C, H, W, generator=generator)
        weight, bias = torch.randn(D, C * P * P, generator=generator), torch.arange(1.0, D + 1)
        trials.append((images, weight / (C * P * P) ** 0.5, bias / D, P))
    check(implementation, project, trials, mistakes)


def check_attention_weights(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `my_attention_weights(q (... T d), k (... T d)) -> (... T T)`; CheckFailed hints."""

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return q @ k.transpose(-2, -1)

    mistakes: Mistakes = [
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5).softmax(dim=-2),
         "the columns sum to 1, not the rows: row t is what token t reads, so the softmax runs "
         "over the last axis."),
        (lambda q, k: scores(q, k).softmax(dim=-1),
         "the scores are not scaled: divide by √d before the softmax."),
        (lambda q, k: (scores(q, k) / q.shape[-1]).softmax(dim=-1),
         "the scores are divided by d; the standard deviation of a sum of d products is √d."),
        (lambda q, k: scores(q, k).softmax(dim=-1) / q.shape[-1] ** 0.5,
         "the scale comes after the softmax, so rows no longer sum to 1: scale the scores."),
        (lambda q, k: scores(q, k) / q.shape[-1] ** 0.5,
         "these are the scaled scores; the softmax is missing."),
        (lambda q, k: (scores(k, q) / q.shape[-1] ** 0.5).softmax(dim=-1),
         "q and k are swapped: row t should belong to the query of token t."),
        (lambda q, k: (scores(q, k) / q.shape[-2] ** 0.5).softmax(dim=-1),
         "the scores are divided by √T, the number of tokens; use √d, the size of a query."),
        (lambda q, k: (scores(q, k) / q.shape[-1] ** 0.5 + causal(q)).softmax(dim=-1),
         "tokens read only what stands before them: a causal mask, as in GPT. In an image every "
         "patch may read every patch."),
    ]  # fmt: skip

    def causal(q: Tensor) -> Tensor:
        T = q.shape[-2]
        return torch.full((T, T), -math.inf).triu(1)

    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5, 16), (2, 4, 6, 8)]
    trials = [tuple(torch.randn(2, *shape, generator=generator).unbind()) for shape in shapes]
    check(implementation, attention_weights, trials, mistakes)


def check_multi_head(
    implementation: Callable[[Tensor, nn.Linear, nn.Linear, int], Tensor],
) -> None:
    """Check `my_multi_head(x (B T D), qkv, projection, h) -> (B T D)`; CheckFailed has a hint.

    `qkv` is Linear(D, 3D), whose outputs are packed (3 h d); `projection` is Linear(D, D).
    """

    def heads(
        x: Tensor, qkv: nn.Linear, projection: nn.Module, h: int, pack: str = "(n h d)",
        scale: Callable[[int, int], float] = lambda d, h: math.sqrt(d), join: str = "B T (h d)",
        axis: int = -1,
    ) -> Tensor:  # fmt: skip
        q, k, v = rearrange(qkv(x), f"B T {pack} -> n B h T d", n=3, h=h)
        weights = (q @ k.mT / scale(q.shape[-1], h)).softmax(dim=axis)
        return projection(rearrange(weights @ v, f"B h T d -> {join}"))

    def scrambled(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        B, T, D = x.shape
        q, k, v = (part.reshape(B, h, T, D // h) for part in qkv(x).chunk(3, dim=-1))
        return projection((attention_weights(q, k) @ v).transpose(1, 2).reshape(B, T, D))

    def not_moved_back(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        q, k, v = rearrange(qkv(x), "B T (n h d) -> n B h T d", n=3, h=h)
        return projection((attention_weights(q, k) @ v).reshape(x.shape))

    def own_slice(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        parts = rearrange(x, "B T (h d) -> B h T d", h=h)
        weight = rearrange(qkv.weight, "(n h d) (g e) -> n h g d e", n=3, h=h, g=h)
        weight = weight.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (n h d e)
        bias = rearrange(qkv.bias, "(n h d) -> n h 1 d", n=3, h=h)
        q, k, v = torch.einsum("bhte,nhde->nbhtd", parts, weight) + bias[:, None]
        return projection(rearrange(attention_weights(q, k) @ v, "B h T d -> B T (h d)"))

    mistakes: Mistakes = [
        (scrambled, "a reshape straight to (B, h, T, d) mixes tokens with channels: right shape, "
         "wrong values. Split D into (h, d) first, then swap the axes T and h."),
        (not_moved_back, "the heads were joined without moving T back in front of h: rearrange "
         "(B h T d) to (B T h d) before flattening."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(h n d)"),
         "qkv is packed (3 h d): all queries, then all keys, then all values."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, pack="(n d h)"),
         "within D the heads come first, (h d): head i owns d neighbouring columns."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, join="B T (d h)"),
         "joined as (d h): put each head's d numbers side by side, (h d)."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: math.sqrt(d * h)),
         "scaled by √D; each head compares vectors of d = D/h numbers, so use √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: d), "scaled by d, not by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, scale=lambda d, h: 1.0),
         "the scores are not scaled by √d."),
        (lambda x, qkv, p, h: heads(x, qkv, p, h, axis=-2),
         "the softmax runs over the wrong axis: rows must sum to 1."),
        (lambda x, qkv, projection, h: heads(x, qkv, nn.Identity(), h),
         "the output projection is missing: without it the heads are never mixed."),
        (lambda x, qkv, projection, h: heads(x, qkv, projection, 1),
         "this is one large head; split D into h heads."),
        (own_slice, "each head sees only its own slice of the input; every head should read all D "
         "numbers of a token."),
    ]  # fmt: skip

    def reference(x: Tensor, qkv: nn.Linear, projection: nn.Linear, h: int) -> Tensor:
        return heads(x, qkv, projection, h)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trials = [
            (torch.randn(B, T, D), nn.Linear(D, 3 * D), nn.Linear(D, D), h)
            for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 4, 8, 2)]
        ]
        for _, qkv, _, _ in trials:  # scores large enough for a wrong scale to show
            nn.init.normal_(qkv.weight, std=0.7)
    with torch.no_grad():
        check(implementation, reference, trials, mistakes)


def check_block(implementation: Callable[..., Tensor]) -> None:
    """Check `my_block(z (B T D), norm1, attention, norm2, mlp) -> (B T D)`; CheckFailed has a hint.

    The four parts are modules, or functions, from (B T D) to (B T D).
    """
    Part = Callable[[Tensor], Tensor]

    def reference(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = z + attention(norm1(z))
        return z + mlp(norm2(z))

    def post_norm(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = norm1(z + attention(z))
        return norm2(z + mlp(z))

    def normed_twice(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = norm1(z)
        z = norm2(z + attention(z))
        return z + mlp(z)

    def normed_first(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = norm1(z) + attention(norm1(z))
        return z + mlp(norm2(z))

    def normed_second(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = norm2(z + attention(norm1(z)))
        return z + mlp(z)

    def mlp_first(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
        z = z + mlp(norm2(z))
        return z + attention(norm1(z))

    normed = ("the residual adds the normalised input, so the stream itself is normalised: the "
              "norm stands in the branch only, z + attention(norm1(z)).")  # fmt: skip
    beside = ("attention and MLP stand side by side: both read the block's input. The MLP reads "
              "the stream after attention has written into it.")  # fmt: skip
    swapped = ("the norms are mixed up: norm1 stands before attention, norm2 before the MLP; each "
               "has a scale and a shift of its own.")  # fmt: skip
    mistakes: Mistakes = [
        (post_norm, "this is post-norm, which normalises after the addition; a ViT is pre-norm: "
         "the norm stands in the branch, z + attention(norm1(z))."),
        (normed_twice, normed), (normed_first, normed), (normed_second, normed),
        (lambda z, n1, a, n2, m: m(n2(z + a(n1(z)))), "the second residual is missing: add the "
         "MLP's output to the stream (Equation 3)."),
        (lambda z, n1, a, n2, m: a(n1(z)) + m(n2(a(n1(z)))), "the first residual is missing: add "
         "attention's output to the stream (Equation 2)."),
        (lambda z, n1, a, n2, m: m(n2(a(n1(z)))), "there is no residual at all: what each branch "
         "makes is added to the stream."),
        (lambda z, n1, a, n2, m: z + m(n2(a(n1(z)))), "there is only one residual, around both "
         "branches: attention has one of its own, and so has the MLP."),
        (lambda z, n1, a, n2, m: z + m(n2(z + a(n1(z)))), "the second residual starts from the "
         "block's input, so what attention wrote is lost: add to the stream as it now is."),
        (lambda z, n1, a, n2, m: reference(z, n1, a, lambda y: y, m), "the MLP reads the stream "
         "as it is: normalise what it reads, mlp(norm2(z))."),
        (lambda z, n1, a, n2, m: reference(z, lambda y: y, a, n2, m), "attention reads the stream "
         "as it is: normalise what it reads, attention(norm1(z))."),
        (lambda z, n1, a, n2, m: reference(z, lambda y: y, a, lambda y: y, m), "there is no norm "
         "at all: each branch reads the stream normalised."),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n2(z)), beside),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n1(z)), beside),
        (lambda z, n1, a, n2, m: reference(z, n2, a, n1, m), swapped),
        (lambda z, n1, a, n2, m: reference(z, n1, a, n1, m), swapped),
        (lambda z, n1, a, n2, m: reference(z, n2, a, n2, m), swapped),
        (mlp_first, "the MLP comes before attention: first read from the other tokens (Equation "
         "2), then work on each (Equation 3)."),
        (lambda z, n1, a, n2, m: reference(z, a, n1, m, n2), "the norms stand behind attention "
         "and MLP; each branch normalises what it reads, not what it writes."),
        (lambda z, n1, a, n2, m: z + a(n1(z)), "this is Equation 2 alone; the MLP's branch is "
         "missing."),
    ]  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trials = []
        for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 2, 8, 2)]:
            block = EncoderBlock(D, h, 2 * D)
            for name, parameter in block.named_parameters():  # a fresh norm's scale is 1: no test
                nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.5)
            parts = (block.norm1, block.attention, block.norm2, block.mlp)
            trials.append((2 * torch.randn(B, T, D) + 1, *parts))

    def on_a_copy(z: Tensor, *parts: Part) -> Any:
        return implementation(z.clone(), *parts)  # `z += ...` must not change what we compare with

    on_a_copy.__name__ = implementation.__name__
    with torch.no_grad():
        check(on_a_copy, reference, trials, mistakes)


def check_schedule(implementation: Callable[[float, float], float]) -> None:
    """Check `my_schedule(progress, warmup) -> float`; raises CheckFailed with a hint.

    Both are shares of the whole training, 0 to 1.
    """

    def over(rule: Callable[[float, float], Any]) -> Callable[..., Any]:
        """The rule for every progress, as a tensor, so that whole curves are compared."""

        def curve(progress: list[float], warmup: float) -> Any:
            try:
                factors = [rule(p, warmup) for p in progress]
            except ZeroDivisionError:
                raise CheckFailed(
                    f"{rule.__name__}: a warm-up of 0 divides by zero; it means that the cosine "
                    "starts at once, so the straight line is for progress < warmup only."
                ) from None
            if any(factor is None for factor in factors):
                return None
            for factor in factors:
                if not isinstance(factor, int | float | Tensor):
                    kind = type(factor).__name__
                    raise CheckFailed(f"{rule.__name__} should return a number, not {kind}")
            return torch.tensor([float(factor) for factor in factors])

        curve.__name__ = rule.__name__
        return curve

    def cosine(share: float) -> float:
        return (1 + math.cos(math.pi * share)) / 2

    def after(warmup: float, progress: float) -> float:
        return (progress - warmup) / (1 - warmup)

    def warm(rest: Callable[[float, float], float]) -> Callable[..., Any]:
        return over(lambda p, w: p / w if p < w else rest(p, w))

    def shorter(epochs: int) -> Callable[..., Any]:
        return over(lambda p, w: schedule(p, w / epochs))

    def jumping(epochs: int) -> Callable[..., Any]:
        return over(lambda p, w: p * epochs / w if p * epochs < w else cosine(after(w, p)))

    in_epochs = ("the warm-up is over too soon: `warmup` is a share of the whole training, as "
                 "`progress` is, and no number of epochs.")  # fmt: skip
    mistakes: Mistakes = [
        (over(lambda p, w: cosine(p)), "there is no warm-up: while progress < warmup the factor "
         "rises in a straight line from 0 to 1."),
        (over(lambda p, w: cosine(after(w, p)) if p > w else 1.0), "there is no warm-up: the "
         "factor is 1 from the start. While progress < warmup it rises from 0."),
        (warm(lambda p, w: 1.0), "the factor never falls: after the warm-up half a cosine takes "
         "it back to 0."),
        (warm(lambda p, w: 1 - after(w, p)), "after the warm-up it falls in a straight line; half "
         "a cosine stays high longer and lands softly: (1 + cos(π · share)) / 2."),
        (warm(lambda p, w: cosine(p)), "the cosine runs over the whole training and ignores the "
         "warm-up, so the factor jumps where they meet: its share is (progress − warmup) / "
         "(1 − warmup)."),
        (warm(lambda p, w: cosine(p - w)), "the factor does not reach 0 at the end: stretch the "
         "rest of the training to 0..1, divide by (1 − warmup)."),
        (warm(lambda p, w: 0.1 + 0.9 * cosine(after(w, p))), "the factor does not reach 0 at the "
         "end: there is a floor of 0.1 under it."),
        (warm(lambda p, w: cosine(after(w, p) / 2)), "the factor does not reach 0 at the end: "
         "half a cosine goes from 0 to π."),
        (warm(lambda p, w: math.cos(math.pi * after(w, p))), "the cosine goes below 0, and a "
         "negative rate climbs: lift it to 0..1 by (1 + cos) / 2."),
        (warm(lambda p, w: math.cos(math.pi / 2 * after(w, p))), "this is a quarter of a cosine, "
         "still steep at the end; half of one, (1 + cos(π · share)) / 2, lands softly."),
        *((wrong(epochs), in_epochs) for epochs in range(2, 101) for wrong in (shorter, jumping)),
    ]  # fmt: skip
    progress = [step / 100 for step in range(101)]
    check(over(implementation), over(schedule), [(progress, w) for w in (0.1, 0.25, 0.0)], mistakes)


def check_attention_rollout(implementation: Callable[[Tensor], Tensor]) -> None:
    """Check `my_attention_rollout(maps (B L h T T)) -> (B T T)`; raises CheckFailed with a hint."""

    def halves(mixed: Tensor, axis: int = -1) -> Tensor:
        both = mixed + torch.eye(mixed.shape[-1])
        return both / both.sum(dim=axis, keepdim=True)

    def product(steps: Tensor, earlier_left: bool = False) -> Tensor:
        total = steps[:, 0]
        for step in steps.unbind(dim=1)[1:]:
            total = total @ step if earlier_left else step @ total
        return total

    mistakes: Mistakes = [
        (lambda maps: product(maps.mean(dim=2)), "the identity is left out: the residual stream "
         "hands every token on to itself, so add torch.eye(T) before normalising."),
        (lambda maps: product(halves(maps.mean(dim=2), axis=-2)), "the columns are normalised; a "
         "reader is a row, so divide by the sum over the last axis."),
        (lambda maps: product(halves(maps.mean(dim=2)), earlier_left=True), "the blocks are "
         "multiplied in the wrong order: the later block stands on the left, step @ rollout."),
        (lambda maps: product(halves(maps.sum(dim=2))), "the heads are summed, so the identity "
         "counts for less than half: take their mean."),
        (lambda maps: product(halves(maps.amax(dim=2))), "the largest head was taken; rollout "
         "takes the mean over heads (some codes offer the maximum as another method)."),
        (lambda maps: halves(maps.mean(dim=2))[:, -1], "this is the last block alone: multiply "
         "through all blocks."),
        (lambda maps: halves(maps.mean(dim=2))[:, 0], "this is the first block alone: multiply "
         "through all blocks."),
        (lambda maps: product(maps.mean(dim=2) + torch.eye(maps.shape[-1])), "rows are not "
         "normalised after the identity is added: they sum to 2 in every block."),
        (lambda maps: halves(maps.mean(dim=2)).mean(dim=1), "the blocks are averaged; what was "
         "read through several blocks is a matrix product."),
        (lambda maps: halves(maps.mean(dim=2)).prod(dim=1), "the blocks are multiplied element by "
         "element: use the matrix product @."),
        (lambda maps: product(halves(maps.mean(dim=2).mT)), "the maps are transposed before they "
         "are multiplied: row t is what token t reads."),
        (lambda maps: product(halves(maps.mean(dim=2)))[:, 0], "this is the class token's row; "
         "return all rows, (B T T)."),
        (lambda maps: product(halves(maps.mean(dim=2))).mT, "the result is transposed: row t "
         "belongs to the reader t."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 2, 5), (1, 2, 4, 3), (3, 4, 3, 6)]  # (B L h T)
    trials = [(3 * torch.randn(*shape, shape[-1], generator=generator),) for shape in shapes]
    check(implementation, attention_rollout, [(s.softmax(dim=-1),) for (s,) in trials], mistakes)


def check_tokens(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `my_tokens(patch_tokens (B N D), class_token (1 1 D), positions (1 T D)) -> (B T D)`.

    T = N + 1. Raises CheckFailed with a hint.
    """

    def joined(x: Tensor, token: Tensor, last: bool = False) -> Tensor:
        first = token.expand(len(x), -1, -1)
        return torch.cat([x, first] if last else [first, x], dim=1)

    def reference(x: Tensor, token: Tensor, places: Tensor) -> Tensor:
        return joined(x, token) + places

    def guarded(x: Tensor, token: Tensor, places: Tensor) -> Any:
        try:
            return implementation(x, token, places)
        except RuntimeError as error:
            first = str(error).splitlines()[0].rstrip(".")
            raise CheckFailed(
                f"{implementation.__name__}: {first}. The class token is one vector for the whole "
                "batch: expand it to (B 1 D), join it to the patches along axis 1, and only then "
                "add the positions, of which there are T = N + 1."
            ) from None

    guarded.__name__ = implementation.__name__
    mistakes: Mistakes = [
        (lambda x, token, places: joined(x, token), "the positions are missing."),
        (lambda x, token, places: joined(x, token, last=True) + places, "the class token comes "
         "last; it is token 0, and the positions count on it."),
        (lambda x, token, places: joined(x, token, last=True), "the class token comes last, and "
         "the positions are missing."),
        (lambda x, token, places: joined(x + places[:, 1:], token), "the class token came after "
         "the positions, so it has none: join first, then add all T positions."),
        (lambda x, token, places: joined(x + places[:, :-1], token), "the patches got the "
         "positions 0 to N - 1; position 0 belongs to the class token."),
        (lambda x, token, places: joined(x + places[:, :-1], token + places[:, -1:]), "the class "
         "token got the last position; its own is the first."),
        (lambda x, token, places: x + places[:, 1:], "the class token is missing: these are N "
         "tokens, T = N + 1 were expected."),
        (lambda x, token, places: x + places[:, :-1], "the class token is missing: these are N "
         "tokens, T = N + 1 were expected."),
        (lambda x, token, places: x + token + places[:, 1:], "the class token was added to every "
         "patch; it is a token of its own, in front of them."),
        (lambda x, token, places: joined(x, token.new_zeros(token.shape)) + places, "the class "
         "token is zero only at the start: use the vector that is given, it is learned."),
        (lambda x, token, places: joined(x, x.mean(dim=1, keepdim=True)) + places, "the mean of "
         "the patches stands in front of them; use the learned vector that is given."),
        (lambda x, token, places: torch.cat(
            [joined(x, token)[:1], joined(x, token.new_zeros(token.shape))[1:]]) + places,
         "only the first image has its class token: expand it to every image of the batch."),
        (lambda x, token, places: joined(x, token) * places, "positions are added to the tokens, "
         "not multiplied with them."),
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
    check(guarded, reference, trials, mistakes)


def check_sincos(implementation: Callable[[int, int, int], Tensor]) -> None:
    """Check `my_sincos(rows, cols, D) -> (N D)`; raises CheckFailed with a hint."""

    def waves(
        place: Tensor, n: int, base: float = 1e4, divisor: float | int | None = None, sign: int = -1
    ) -> list[Tensor]:
        """Sine and cosine of n angles for every place."""
        rates = base ** (sign * torch.arange(n, dtype=torch.float64) / (divisor or n - 1))
        angles = place.flatten()[:, None] * rates
        return [angles.sin(), angles.cos()]

    def places(rows: int, cols: int) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        return x, y

    def table(
        order: tuple[int, ...] = (0, 1, 2, 3),  # of sin x, cos x, sin y, cos y
        move: Callable[[Tensor, int], Tensor] = lambda place, n: place,
        join: Callable[[list[Tensor]], Tensor] = lambda parts: torch.cat(parts, dim=1),
        transposed: bool = False,
        wave: Callable[[int], dict[str, float]] = lambda n: {},
    ) -> Callable[..., Tensor]:
        def fill(rows: int, cols: int, D: int) -> Tensor:
            x, y = places(rows, cols)
            if transposed:
                x, y = x.T, y.T
            how: dict[str, Any] = {**wave(D // 4)}
            parts = waves(move(x, cols), D // 4, **how) + waves(move(y, rows), D // 4, **how)
            return join([parts[i] for i in order]).float()

        return fill

    def flat(twice: bool, alternating: bool, transformer: bool) -> Callable[..., Tensor]:
        """One dimension only: the patch's number."""

        def fill(rows: int, cols: int, D: int) -> Tensor:
            n = D // 4 if twice else D // 2
            parts = waves(torch.arange(rows * cols), n, divisor=n if transformer else None)
            one = turns(parts) if alternating else torch.cat(parts, dim=1)
            return (torch.cat([one, one], dim=1) if twice else one).float()

        return fill

    def turns(parts: list[Tensor]) -> Tensor:
        """sin, cos, sin, cos, ... within x, then within y."""
        pairs = [torch.stack(parts[i : i + 2], dim=-1).flatten(1) for i in range(0, len(parts), 2)]
        return torch.cat(pairs, dim=1)

    def four_turns(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, dim=-1).flatten(1)

    def constant(**how: float | int) -> Callable[[int], dict[str, float]]:
        return lambda n: how

    right = table()
    one_number = (
        "these are positions in one dimension: only the patch's number counts, so the "
        "patch below is far away. Half of D belongs to the column, half to the row."
    )
    flats = [flat(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]
    alternating = (
        "sine and cosine take turns; this book keeps a quarter of D together for each: "
        "sin x, cos x, sin y, cos y."
    )
    exponent = (
        "the exponents do not end at 1: frequency i of n = D/4 is 10000 ** (-i / (n - 1)), "
        "from 1 down to 1/10000."
    )
    mistakes: Mistakes = [
        (table(order=(2, 3, 0, 1)), "x and y are swapped: the first half of a row tells the column "
         "x, the second half the row y."),
        (table(transposed=True), "the patches go down the columns; reading order goes along a row "
         "first, so x changes fastest."),
        (table(order=(2, 3, 0, 1), transposed=True), "the patches go down the columns, and x and y "
         "are swapped."),
        (table(order=(1, 0, 3, 2)), "cosine stands before sine: the order is sin x, cos x, sin y, "
         "cos y."),
        (table(order=(0, 2, 1, 3)), "the two sines come first; the order is sin x, cos x, sin y, "
         "cos y."),
        (table(join=turns), alternating),
        (table(order=(2, 3, 0, 1), join=turns), alternating + " And x and y are swapped."),
        (table(join=four_turns), alternating),
        (table(wave=lambda n: {"divisor": n}), exponent),
        (table(wave=lambda n: {"divisor": 2 * n}), exponent),
        (table(wave=lambda n: {"divisor": 4 * n}), exponent),
        (table(wave=lambda n: {"divisor": n / 2}), exponent),
        (table(wave=constant(sign=1)), "the frequencies grow to 10000: the exponent is "
         "negative."),
        *((table(wave=constant(base=base)), f"the frequencies end at 1/{base:.4g}; they go down "
           "to 1/10000.") for base in (1000.0, 100.0, 10.0, 100000.0, math.e)),
        (table(move=lambda place, n: place + 1), "rows and columns count from 0 here, not from 1."),
        (table(move=lambda place, n: place / n), "places were scaled to 0..1; a step to the next "
         "patch is 1."),
        (table(move=lambda place, n: place / max(n - 1, 1)), "places were scaled to 0..1; a step "
         "to the next patch is 1."),
        (table(move=lambda place, n: 2 * math.pi * place), "there is no 2π in it: the angle is "
         "place times frequency."),
        *((mistake, one_number) for mistake in flats),
        (lambda rows, cols, D: right(rows, cols, D)[None], "drop the leading axis: the result is "
         "(N D)."),
        (lambda rows, cols, D: right(rows, cols, D).view(rows, cols, D), "flatten rows and columns "
         "into one axis: the result is (N D)."),
        (lambda rows, cols, D: torch.cat([torch.zeros(1, D), right(rows, cols, D)]), "there is a "
         "row too many: the class token stands nowhere, so the result is for N patches only."),
        (lambda rows, cols, D: right(rows, cols, D).T, "the result is transposed: one row for each "
         "patch, (N D)."),
    ]  # fmt: skip
    check(implementation, sincos_positions, [(3, 5, 24), (7, 7, 64), (4, 2, 8)], mistakes)


def check_forward(implementation: Callable[[Tensor, VisionTransformer], Tensor]) -> None:
    """Check `my_vit_forward(images (B C H W), model) -> (B K)`; raises CheckFailed with a hint.

    The model's head reads the class token; dropout is off.
    """

    def joined(images: Tensor, model: VisionTransformer, behind: bool = False) -> Tensor:
        e = model.embedding
        parts = [cast(Tensor, e.class_token).expand(len(images), -1, -1), e.patches(images)]
        return torch.cat(parts[::-1] if behind else parts, dim=1)

    def encode(z: Tensor, model: VisionTransformer) -> Tensor:
        for block in model.encoder.blocks:
            z = block(z)
        return z

    def late(images: Tensor, model: VisionTransformer, first: int) -> Tensor:
        tokens, N = joined(images, model), model.embedding.positions.shape[1] - 1
        tokens[:, 1:] += model.embedding.positions[:, first : first + N]
        return model.head(model.encoder(tokens)[:, 0])

    def whole(
        images: Tensor,
        model: VisionTransformer,
        read: Callable[[Tensor], Tensor] = lambda z: z[:, 0],
    ) -> Tensor:
        return model.head(read(model.encoder(model.embedding(images))))

    def behind(images: Tensor, model: VisionTransformer, token: int) -> Tensor:
        z = joined(images, model, behind=True) + model.embedding.positions
        return model.head(model.encoder(z)[:, token])

    no_place = (
        "the class token has no position: join it to the patches first, then add all N + 1 rows "
        "of the table (Equation 1)."
    )
    at_the_end = "the class token stands behind the patches; Equation 1 puts it in front."
    mistakes: Mistakes = [
        (lambda x, m: m.head(encode(m.embedding(x), m)[:, 0]), "the last LayerNorm is missing: "
         "the head reads model.encoder.norm of the last block's output (Equation 4)."),
        (lambda x, m: whole(x, m, lambda z: z.mean(dim=1)), "this is the mean over all tokens; "
         "the head of this model reads the class token, z[:, 0]."),
        (lambda x, m: whole(x, m, lambda z: z[:, 1:].mean(dim=1)), "this is the mean over the "
         "patches; the head of this model reads the class token, z[:, 0]."),
        (lambda x, m: whole(x, m).softmax(dim=-1), "a softmax is applied already: return the "
         "logits. The loss has the softmax inside, and a second one flattens its gradient."),
        (lambda x, m: whole(x, m).log_softmax(dim=-1), "these are logarithms of probabilities: "
         "return the logits, the loss does the rest."),
        (lambda x, m: whole(x, m).argmax(dim=-1), "this is the predicted class: return all K "
         "logits."),
        (lambda x, m: late(x, m, first=1), no_place),
        (lambda x, m: late(x, m, first=0), no_place),
        (lambda x, m: whole(x, m, lambda z: z[:, -1]), "the last token is read, which is a patch; "
         "the class token is the first, z[:, 0]."),
        (lambda x, m: whole(x, m, lambda z: z[:, 1]), "token 1 is read, which is the first patch; "
         "the class token is token 0."),
        (lambda x, m: whole(x, m, lambda z: z), "every token has got logits: take token 0 before "
         "the head."),
        (lambda x, m: behind(x, m, token=-1), at_the_end),
        (lambda x, m: behind(x, m, token=0), at_the_end),
        (lambda x, m: m.head(m.encoder(joined(x, m))[:, 0]), "the positions are missing."),
        (lambda x, m: m.features(x), "these are the features y: the head is missing."),
        (lambda x, m: m.head(m.encoder.norm(m.embedding(x))[:, 0]), "the blocks are missing."),
        (lambda x, m: m.head(m.encoder.norm(m.encoder.blocks[0](m.embedding(x)))[:, 0]), "only "
         "one block ran: loop over all of model.encoder.blocks."),
        (lambda x, m: whole(x, m, lambda z: m.encoder.norm(z)[:, 0]), "the last norm is applied "
         "twice: model.encoder has it inside already."),
    ]  # fmt: skip
    with torch.no_grad():
        check(implementation, whole, models_and_images(), mistakes)


def check_cross_entropy(implementation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `my_cross_entropy(logits (B K), labels (B)) -> mean loss`; CheckFailed has a hint."""

    @wraps(implementation)
    def finite(logits: Tensor, labels: Tensor) -> Any:
        loss = implementation(logits, labels)
        if isinstance(loss, Tensor) and not loss.isfinite().all():
            raise CheckFailed(
                f"{implementation.__name__}: inf or nan for logits up to {logits.max().item():.0f}"
                ": take the largest logit of each row off all of that row first, and never take "
                "the logarithm of a softmax."
            )
        return loss

    mistakes: Mistakes = [
        (lambda x, labels: F.cross_entropy(x.softmax(dim=-1), labels), "this is the loss of a "
         "second softmax: the exponentials are already in log-sum-exp."),
        (lambda x, labels: F.cross_entropy(x, labels, reduction="sum"), "this is the sum over "
         "the batch: take the mean."),
        (lambda x, labels: F.cross_entropy(x, labels, reduction="none"), "this is the loss of "
         "each image: take the mean."),
        (lambda x, labels: -F.cross_entropy(x, labels), "the sign is turned round."),
        (lambda x, labels: x.logsumexp(dim=-1).mean(), "the logit of the true class is missing: "
         "take it off log-sum-exp."),
        (lambda x, labels: F.nll_loss(x, labels), "log-sum-exp is missing: a logit is no "
         "logarithm of a probability yet."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 10, generator=generator)
    labels = torch.randint(10, (6,), generator=generator)
    trials = [(scale * logits, labels) for scale in (1, 5, 1000)]
    check(finite, F.cross_entropy, trials, mistakes)


def check_masked_logits(
    implementation: Callable[[Tensor, VisionTransformer, bool], Tensor],
) -> None:
    """Check `my_masked_logits(images (B C H W), model, last) -> (B K)`; CheckFailed has a hint.

    A causal mask in every block; the class token stands first, or `last`, with its own position.
    """

    def whole(z: Tensor, model: VisionTransformer, read: int, norm: bool = True) -> Tensor:
        for block in cast(list[EncoderBlock], model.encoder.blocks):
            q, k, v = block.attention.split_heads(block.norm1(z))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            z = z + block.attention.projection(rearrange(y, "B h T d -> B T (h d)"))
            z = z + block.mlp(block.norm2(z))
        return model.head((model.encoder.norm(z) if norm else z)[:, read])

    def placed(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        return model.embedding(images).roll(-1 if last else 0, dims=1)

    def in_the_order_of_the_table(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        e = model.embedding
        return (model.embedding(images) - e.positions).roll(-1 if last else 0, dims=1) + e.positions

    def reference(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        return whole(placed(images, model, last), model, -1 if last else 0)

    mistakes: Mistakes = [
        (lambda x, m, last: m(x), "these are the logits without a mask: use "
         "CausalAttention.forward(block.attention, ...) in every block."),
        (lambda x, m, last: reference(x, m, False), "the class token should move behind the "
         "patches when `last` is true."),
        (lambda x, m, last: reference(x, m, True), "the class token should stay in front when "
         "`last` is false."),
        (lambda x, m, last: whole(placed(x, m, last), m, 0), "token 0 is read; when the class "
         "token stands last, read token -1."),
        (lambda x, m, last: whole(placed(x, m, last), m, -1), "token -1 is read; when the class "
         "token stands first, read token 0."),
        (lambda x, m, last: whole(in_the_order_of_the_table(x, m, last), m, -1 if last else 0),
         "the tokens moved and their positions did not: each keeps its own, so move them after "
         "the positions are added."),
        (lambda x, m, last: whole(placed(x, m, last), m, -1 if last else 0, norm=False), "the "
         "last LayerNorm is missing."),
    ]  # fmt: skip
    with torch.no_grad():
        pairs = models_and_images()
        trials = [(images, model, last) for images, model in pairs for last in (False, True)]
        check(implementation, reference, trials, mistakes)


def models_and_images() -> list[tuple[Tensor, VisionTransformer]]:
    """Small models with no zeros or ones among their weights that would hide a mistake."""
    pairs = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for B, C, H, W in [(3, 3, 8, 12), (1, 1, 8, 8), (4, 2, 12, 4)]:
            model = VisionTransformer(ViTConfig((H, W), 4, C, 5, 3, 16, 24, 2)).eval()
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            pairs.append((torch.randn(B, C, H, W), model))
    return pairs
