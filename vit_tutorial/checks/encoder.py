"""Chapter 06: the encoder block, blocks left out, and what the stream says on the way."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.checks.attention import Part
from vit_tutorial.checks.core import CheckFailed, Mistakes, Slips, compare, exercise, learning
from vit_tutorial.encoder import Encoder, EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig


@exercise
def check_block(implementation: Callable[..., Tensor]) -> bool:
    """Check `my_block(z (B T D), norm1, attention, norm2, mlp) -> (B T D)`; CheckFailed has a hint.

    The four parts are modules, or functions, from (B T D) to (B T D).
    """
    slips: Slips = [
        (r"must match|size", "every part takes (B T D) and gives (B T D) back."),
    ]  # fmt: skip
    return compare(implementation, block, blocks_and_tokens(), block_mistakes(), slips)


@exercise
def check_walk_without(implementation: Callable[[Encoder, Tensor, int], Tensor]) -> bool:
    """Check `my_walk_without(encoder, z (B T D), left_out) -> (B T D)`, one block left out.

    With `left_out=None` all blocks run.
    """

    def without(
        encoder: Encoder, z: Tensor, left_out: int | None, norm: bool = True, twice: bool = False
    ) -> Tensor:
        for number, part in enumerate(encoder.blocks):
            if number != left_out:
                z = z + part(z) if twice else part(z)
        return encoder.norm(z) if norm else z

    def other(encoder: Encoder, z: Tensor, left_out: int | None, step: int) -> Tensor:
        return without(encoder, z, None if left_out is None else left_out + step)

    mistakes: Mistakes = [
        (lambda e, z, i: without(e, z, i, norm=False), "the last norm is missing."),
        (lambda e, z, i: other(e, z, i, -1), "blocks are counted from 0."),
        (lambda e, z, i: other(e, z, i, 1), "the block after it is left out: "
         "blocks are counted from 0."),
        (lambda e, z, i: without(e, z, i or None), "block 0 is never left out: 0 counts as false "
         "in an `if left_out`, so compare, i != left_out."),
        (lambda e, z, i: without(e, z, i, twice=True), "a residual goes round each block; the "
         "block has both of its own inside: z = block(z)."),
        (lambda e, z, i: e(z), "no block is left out."),
        (lambda e, z, i: e(z) if i is None else e.norm(e.blocks[i](z)), "this is one block alone: "
         "leave that one out and run the others."),
        (lambda e, z, i: e.norm(without_after(e, z, i)),
         "the walk ends where the block is left out: the later blocks still run."),
        (lambda e, z, i: without(e, torch.zeros_like(z), i),
         "the stream starts from zero: start from z."),
    ]  # fmt: skip

    def without_after(encoder: Encoder, z: Tensor, left_out: int | None) -> Tensor:
        for part in encoder.blocks[:left_out]:
            z = part(z)
        return z

    encoder = strong(Encoder(3, 8, 2, 16))
    trials = [
        (encoder, torch.randn(B, T, 8).double(), i)
        for B, T, i in [(2, 5, 1), (1, 3, 2), (3, 4, 0), (1, 4, None)]
    ]
    slips: Slips = [
        (r"NoneType", "with left_out=None all blocks run: i != left_out holds for each of them."),
    ]  # fmt: skip
    return compare(implementation, without, trials, mistakes, slips, gradients=False)


@exercise
def check_merge(implementation: Callable[[nn.Linear, nn.Linear], nn.Linear]) -> bool:
    """Check `my_merge(first, second) -> nn.Linear`, equal to `second(first(x))`."""

    @wraps(implementation)
    def parts(first: nn.Linear, second: nn.Linear) -> Any:
        merged = learning(implementation)(first, second)  # as in a notebook
        if merged is None:
            return None
        if not isinstance(merged, nn.Linear):
            kind = type(merged).__name__
            raise CheckFailed(f"{implementation.__name__} should return an nn.Linear, not {kind}")
        if merged.bias is None:
            raise CheckFailed(f"{implementation.__name__}: the merged layer has no bias.")
        return merged.weight.detach(), merged.bias.detach()

    def reference(first: nn.Linear, second: nn.Linear) -> Any:
        return second.weight @ first.weight, second(first.bias)

    square = (
        "the product is the other way round: first acts first, so second.weight @ first.weight."
    )
    through = (
        "the bias is off: first's bias goes through second, second.weight @ b + second's bias."
    )
    mistakes: Mistakes = [
        (lambda a, b: (a.weight @ b.weight, None), square),
        (lambda a, b: ((b.weight @ a.weight).T, None),
         "the weight is transposed: it is (outputs inputs), second.weight @ "
         "first.weight."),
        (lambda a, b: (b.weight @ a.weight, a.bias + b.bias), through),
        (lambda a, b: (b.weight @ a.weight, b.bias), through),
        (lambda a, b: (b.weight @ a.weight, b.weight @ a.bias),
         "the bias is off: second's own bias is missing."),
        (lambda a, b: (b.weight @ a.weight, 0 * b.bias), "the bias is zero: " + through),
        (lambda a, b: (b.weight + a.weight, None), "the weights are added; one "
         "layer after the other is a matrix product."),
        (lambda a, b: (b.weight @ a.weight, None), "the weight is right, and " + through),
        (lambda a, b: (None, b(a.bias)), "the bias is right, and the weight is not: it is "
         "second.weight @ first.weight."),
    ]  # fmt: skip
    trials = [(nn.Linear(i, j), nn.Linear(j, k)) for i, j, k in [(4, 4, 4), (6, 12, 4), (3, 2, 5)]]
    slips: Slips = [
        (r"leaf Variable that requires grad", "a weight is written in place while gradients are "
         "on: put the copy_ under `with torch.no_grad():`."),
        (r"mat1 and mat2|size|must match", "the merged layer has first's inputs "
         "and second's outputs; its weight is second.weight @ first.weight."),
    ]  # fmt: skip
    return compare(parts, reference, trials, mistakes, slips, gradients=False)


@exercise
def check_lens(implementation: Callable[[VisionTransformer, Tensor], Tensor]) -> bool:
    """Check `my_lens(model, images) -> (L B K)`: the logits if the model ended after each block."""

    def lens(
        model: VisionTransformer, images: Tensor, norm: bool = True, start: int = 1,
        read: Callable[[Tensor], Tensor] = lambda z: z[:, 0], kept: bool = False,
    ) -> Tensor:  # fmt: skip
        stream = [model.embedding(images)]
        for part in model.encoder.blocks:
            stream.append(part(stream[-1]))
            if kept:
                stream[-1] = model.encoder.norm(stream[-1])
        last = model.encoder.norm if norm and not kept else nn.Identity()
        return torch.stack([model.head(read(last(z))) for z in stream[start:]])

    def without_last(model: VisionTransformer, images: Tensor) -> Tensor:
        return lens(model, images, start=0)[:-1]

    mistakes: Mistakes = [
        (lambda m, x: lens(m, x, norm=False), "the last norm is missing: the "
         "head expects what model.encoder.norm gives."),
        (lambda m, x: lens(m, x, start=0), "start after the first block: there "
         "are L readings."),
        (lambda m, x: lens(m, x, kept=True), "the norm is written into the stream, so the next "
         "block reads it normalised: norm a copy for the head only."),
        (without_last, "the readings are taken before each block; take them "
         "after it."),
        (lambda m, x: lens(m, x, read=lambda z: z.mean(1)),
         "this is the mean over the tokens; the head reads token 0."),
        (lambda m, x: lens(m, x, read=lambda z: z[:, -1]),
         "the last token is read; the head reads token 0."),
        (lambda m, x: m(x), "these are the logits after the last block only."),
        (lambda m, x: lens(m, x).movedim(0, 1), "the blocks come first: (L B K)."),
        (lambda m, x: lens(m, x).softmax(dim=-1), "these are probabilities; "
         "return the logits."),
    ]  # fmt: skip
    trials = []
    for L, K, B in [(3, 4, 2), (2, 3, 1)]:
        model = strong(VisionTransformer(ViTConfig(8, 4, 1, K, L, 8, 16, 2)))
        trials.append((model, torch.randn(B, 1, 8, 8).double()))
    return compare(implementation, lens, trials, mistakes, gradients=False)


def strong(module: nn.Module) -> nn.Module:
    """Weights in float64 that are large enough for every part to show in the result."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def block(z: Tensor, norm1: Part, attention: Part, norm2: Part, mlp: Part) -> Tensor:
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


def block_mistakes() -> Mistakes:
    """What goes wrong between the two branches of a block."""
    normed = ("the residual adds the normalised input, so the stream itself is normalised: the "
              "norm stands in the branch only, z + attention(norm1(z)).")  # fmt: skip
    beside = ("attention and MLP stand side by side: both read the block's input. The MLP reads "
              "the stream after attention has written into it.")  # fmt: skip
    swapped = ("the norms are mixed up: norm1 stands before attention, norm2 before the MLP; each "
               "has a scale and a shift of its own.")  # fmt: skip
    return [
        (post_norm, "this is post-norm, which normalises after the addition; a "
         "ViT is pre-norm: the norm stands in the branch, z + "
         "attention(norm1(z))."),
        (normed_twice, normed), (normed_first, normed), (normed_second, normed),
        (lambda z, n1, a, n2, m: m(n2(z + a(n1(z)))),
         "the second residual is missing: add the MLP's output to the stream "
         "(Equation 3)."),
        (lambda z, n1, a, n2, m: a(n1(z)) + m(n2(a(n1(z)))),
         "the first residual is missing: add attention's output to the stream "
         "(Equation 2)."),
        (lambda z, n1, a, n2, m: m(n2(a(n1(z)))), "there is no residual at all: "
         "what each branch makes is added to the stream."),
        (lambda z, n1, a, n2, m: z + m(n2(a(n1(z)))),
         "there is only one residual, around both branches: attention has one "
         "of its own, and so has the MLP."),
        (lambda z, n1, a, n2, m: z + m(n2(z + a(n1(z)))),
         "the second residual starts from the block's input, so what attention "
         "wrote is lost: add to the stream as it now is."),
        (lambda z, n1, a, n2, m: block(z, n1, a, lambda y: y, m),
         "the MLP reads the stream as it is: normalise what it reads, "
         "mlp(norm2(z))."),
        (lambda z, n1, a, n2, m: block(z, lambda y: y, a, n2, m),
         "attention reads the stream as it is: normalise what it reads, "
         "attention(norm1(z))."),
        (lambda z, n1, a, n2, m: block(z, lambda y: y, a, lambda y: y, m),
         "there is no norm at all: each branch reads the stream normalised."),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n2(z)), beside),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n1(z)), beside),
        (lambda z, n1, a, n2, m: block(z, n2, a, n1, m), swapped),
        (lambda z, n1, a, n2, m: block(z, n1, a, n1, m), swapped),
        (lambda z, n1, a, n2, m: block(z, n2, a, n2, m), swapped),
        (mlp_first, "the MLP comes before attention: first read from the other "
         "tokens (Equation 2), then work on each (Equation 3)."),
        (lambda z, n1, a, n2, m: block(z, a, n1, m, n2),
         "the norms stand behind attention and MLP; each branch normalises what "
         "it reads, not what it writes."),
        (lambda z, n1, a, n2, m: z + a(n1(z)), "this is Equation 2 alone; the "
         "MLP's branch is missing."),
        (lambda z, n1, a, n2, m: z + m(n2(z)), "this is Equation 3 alone; "
         "attention's branch is missing."),
        (lambda z, n1, a, n2, m: block(block(z, n1, a, n2, lambda y: 0 * y), n1, a, n2, m),
         "attention runs twice."),
        (lambda z, n1, a, n2, m: n2(block(z, n1, a, n2, m)),
         "norm2 is applied once more at the end: the block hands on the stream "
         "as it is."),
    ]  # fmt: skip


def blocks_and_tokens() -> list[tuple[Any, ...]]:
    """Tokens and the four parts of a block whose norms have scales other than 1."""
    trials: list[tuple[Any, ...]] = []
    for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 2, 8, 2)]:
        block = EncoderBlock(D, h, 2 * D)
        for name, parameter in block.named_parameters():  # a fresh norm's scale is 1: no test
            nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.5)
        parts = (block.norm1, block.attention, block.norm2, block.mlp)
        trials.append((2 * torch.randn(B, T, D) + 1, *parts))
    return trials
