"""Chapter 10: entropy of a head, positions of one row, and what patch tokens would answer."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vit_tutorial.checks.core import Mistakes, compare, exercise
from vit_tutorial.checks.training import model_of
from vit_tutorial.model import VisionTransformer, ViTConfig


@exercise
def check_entropy(implementation: Callable[[Tensor], Tensor]) -> bool:
    """Check `my_entropy(maps (B L h T T)) -> (B L h)`: bits of a row, mean over readers."""

    def rows(maps: Tensor) -> Tensor:
        return -torch.special.xlogy(maps, maps).sum(dim=-1) / math.log(2)

    mistakes: Mistakes = [
        (lambda maps: rows(maps).mean(dim=-1) * math.log(2), "this is in nats: use log2."),
        (lambda maps: -rows(maps).mean(dim=-1), "the sign is turned."),
        (lambda maps: rows(maps)[..., 0], "this is the class token alone; take all readers."),
        (lambda maps: rows(maps).sum(dim=-1), "the sum over readers; take their mean."),
        (lambda maps: -(maps * maps.log2()).sum(dim=-1).mean(dim=-1),
         "a weight of 0 gives 0 times minus infinity: torch.special.xlogy knows."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    trials = [(torch.randn(B, 2, 3, T, T, generator=dice).softmax(dim=-1),)
              for B, T in ((2, 5), (1, 7))]  # fmt: skip
    trials.append((torch.eye(4).expand(1, 1, 2, 4, 4).clone(),))
    return compare(
        implementation, lambda maps: rows(maps).mean(dim=-1), trials, mistakes, gradients=False
    )


@exercise
def check_same_row(implementation: Callable[[Tensor], Tensor]) -> bool:
    """Check `my_same_row(similarity (rows cols rows cols)) -> number`.

    The mean over pairs of different patches of one row.
    """

    def pairs(s: Tensor, own: bool = False) -> Tensor:
        same = torch.stack([s[r, :, r] for r in range(len(s))])  # (rows cols cols)
        return (same if own else same[:, ~torch.eye(s.shape[1], dtype=torch.bool)]).mean()

    mistakes: Mistakes = [
        (lambda s: pairs(s, own=True), "leave out the pairs of a patch with itself."),
        (lambda s: pairs(s.permute(1, 0, 3, 2)), "these are pairs in one column."),
        (lambda s: s.mean(), "this is the mean over all pairs; keep those in one row."),
    ]
    dice = torch.Generator().manual_seed(0)
    trials = [(torch.rand(R, C, R, C, generator=dice),) for R, C in ((3, 4), (4, 2))]
    return compare(implementation, pairs, trials, mistakes)


@exercise
def check_patch_lens(implementation: Callable[[VisionTransformer, Tensor], Tensor]) -> bool:
    """Check `my_patch_lens(model, images (B C H W)) -> (B N K)`: the head on every patch token."""

    def tokens(net: VisionTransformer, x: Tensor, normed: bool = True, last: bool = True) -> Tensor:
        z = net.embedding(x)
        for block in list(net.encoder.blocks)[: None if last else -1]:
            z = block(z)
        return net.head(net.encoder.norm(z) if normed else z)

    mistakes: Mistakes = [
        (lambda net, x: tokens(net, x, normed=False)[:, 1:], "the last norm is missing."),
        (lambda net, x: tokens(net, x, last=False)[:, 1:], "the last block is missing."),
        (tokens, "the class token is in it: drop token 0."),
        (lambda net, x: tokens(net, x)[:, :-1], "token 0 is the class token; drop the first."),
        (lambda net, x: net.head(net.embedding(x))[:, 1:], "this is before the first block."),
    ]
    net = model_of(ViTConfig(8, 4, 1, 3, 2, 8, 16, 2))
    trials = [(net, torch.randn(B, 1, 8, 8)) for B in (2, 1)]
    return compare(implementation, lambda net, x: tokens(net, x)[:, 1:], trials, mistakes)
