"""What all checks share: compare values with a reference, and name the mistake they point to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
