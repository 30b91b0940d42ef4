"""Chapter 03: class token, patch tokens and positions, joined as in Equation 1."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.checks.core import CheckFailed, Mistakes, check


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
