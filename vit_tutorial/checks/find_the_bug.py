"""Chapter 15: a detector that the reader writes."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from vit_tutorial.checks.core import CheckFailed, Mistakes, Slips, compare, exercise


class Mixer(nn.Module):
    """Logits that take `share` from the mean over the batch, and noise while training."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share
        self.layer = nn.Linear(12, 3).double()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layer(images.flatten(1))
        logits = logits + self.share * logits.mean(dim=0)
        return logits + torch.randn_like(logits) if self.training else logits


@exercise
def check_alone(implementation: Callable[[nn.Module, Tensor], float]) -> bool:
    """Check `my_alone(model, images (B C H W)) -> float`.

    By how much the logits of an image change, at most, when it comes alone and not in its batch; in
    eval mode, and the model keeps the mode that it had.
    """

    def together_and_alone(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        model.eval()
        return model(images), torch.cat([model(images[i : i + 1]) for i in range(len(images))])

    def by(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
        return lambda share, training, images: (
            rule(*together_and_alone(mixer(share, training), images)).item(), None
        )  # fmt: skip

    @wraps(implementation)
    def measured(share: float, training: bool, images: Tensor) -> Any:
        model = mixer(share, training)
        found = implementation(model, images)
        if found is not None and model.training != training:
            raise CheckFailed(
                f"{implementation.__name__}: the model is left in another mode; put it back into "
                "the one in which it came."
            )
        return None if found is None else (found, int(model.training))

    def reference(share: float, training: bool, images: Tensor) -> tuple[float, int]:
        together, alone = together_and_alone(mixer(share, training), images)
        return (together - alone).abs().max().item(), int(training)

    mistakes: Mistakes = [
        (by(lambda a, b: (a - b).abs().mean()), "this is the mean; take the largest difference."),
        (by(lambda a, b: (a - b).max()), "a difference may be negative: take abs() first."),
        (by(lambda a, b: (a - b)[0].abs().max()), "only the first image is compared; each of them "
         "should come alone once."),
        (by(lambda a, b: (a - b)[-1].abs().max()), "only the last image is compared."),
        (by(lambda a, b: (a - b).norm()), "this is the norm of all differences; take the largest."),
        (by(lambda a, b: 0 * a.sum()), "nothing ever differs: give the model one image at a time, "
         "images[i : i + 1], and the whole batch once."),
    ]  # fmt: skip
    slips: Slips = [
        (r"shapes cannot be multiplied|dimension", "an image alone is still a batch: "
         "images[i : i + 1] keeps the axis B, images[i] does not."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    cases = [(0.5, False, 4), (-0.7, True, 3), (0.0, False, 5), (2.0, True, 6)]
    trials = [
        (share, training, torch.randn(B, 3, 2, 2, generator=dice, dtype=torch.float64))
        for share, training, B in cases
    ]
    return compare(measured, reference, trials, mistakes, slips, gradients=False)


def mixer(share: float, training: bool) -> Mixer:
    """The same weights every time."""
    torch.manual_seed(0)
    return Mixer(share).train(training)
