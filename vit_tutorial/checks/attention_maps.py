"""Chapter 09: attention rollout."""

from collections.abc import Callable

import torch
from torch import Tensor

from vit_tutorial.attention_maps import attention_rollout
from vit_tutorial.checks.core import Mistakes, check


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
