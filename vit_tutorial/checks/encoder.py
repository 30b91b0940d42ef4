"""Chapter 06: the encoder block."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.checks.core import Mistakes, check
from vit_tutorial.encoder import EncoderBlock


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

    def on_a_copy(z: Tensor, *parts: Part) -> Any:
        return implementation(z.clone(), *parts)  # `z += ...` must not change what we compare with

    on_a_copy.__name__ = implementation.__name__
    with torch.no_grad():
        check(on_a_copy, reference, blocks_and_tokens(), mistakes)


def blocks_and_tokens() -> list[tuple[Any, ...]]:
    """Tokens and the four parts of a block whose norms have scales other than 1."""
    trials: list[tuple[Any, ...]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for B, T, D, h in [(2, 5, 12, 3), (1, 7, 16, 4), (3, 2, 8, 2)]:
            block = EncoderBlock(D, h, 2 * D)
            for name, parameter in block.named_parameters():  # a fresh norm's scale is 1: no test
                nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.5)
            parts = (block.norm1, block.attention, block.norm2, block.mlp)
            trials.append((2 * torch.randn(B, T, D) + 1, *parts))
    return trials
