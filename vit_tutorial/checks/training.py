"""Chapter 08: the learning-rate schedule."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.checks.core import CheckFailed, Mistakes, check
from vit_tutorial.train import schedule


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
