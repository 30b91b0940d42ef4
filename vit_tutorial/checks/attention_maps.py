"""Chapter 09: maps of the class token and of any token, rollout, occlusion."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.attention_maps import attention_rollout, class_token_maps
from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise
from vit_tutorial.checks.encoder import strong
from vit_tutorial.model import VisionTransformer, ViTConfig


@exercise
def check_class_token_maps(implementation: Callable[[Tensor, int, int], Tensor]) -> bool:
    """Check `my_class_token_maps(maps (... T T), rows, cols) -> (... rows cols)`, T = N + 1."""

    def lay(read: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int, int], Tensor]:
        return lambda maps, rows, cols: read(maps).unflatten(-1, (rows, cols))

    mistakes: Mistakes = [
        (lay(lambda maps: maps[..., 1:, 0]), "this is column 0, what every "
         "patch reads from the class token; what the class token reads is row 0."),
        (lay(lambda maps: maps[..., 0, :-1]), "the last patch was left out: "
         "drop the weight on the class token itself, which comes first."),
        (lay(lambda maps: maps[..., -1, 1:]), "this is the last patch's row; "
         "the class token is token 0."),
        (lay(lambda maps: maps[..., 1, 1:]), "this is the first patch's row; "
         "the class token is token 0."),
        (lay(lambda maps: maps.mean(dim=-2)[..., 1:]),
         "this is the mean over all readers; take row 0."),
        (lambda maps, rows, cols: maps[..., 0, 1:].unflatten(-1, (cols, rows)).mT,
         "patches count along a row of the grid first; these were laid down the "
         "columns."),
        (lambda maps, rows, cols: maps[..., 0, 1:].unflatten(-1, (cols, rows)),
         "rows and columns are swapped."),
        (lambda maps, rows, cols: maps[..., 0, 1:], "lay the N weights out as a "
         "grid, rows x cols."),
        (lay(lambda maps: maps[..., 0, 1:] / maps[..., 0, 1:].sum(dim=-1, keepdim=True)),
         "the map is scaled to sum to 1; give the weights as they are (the rest "
         "is on the class token)."),
        (lay(lambda maps: maps[..., 0, 1:] / maps[..., 0, 1:].amax(dim=-1, keepdim=True)),
         "the map is scaled to its largest value; give the weights as they are."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    grids = [((2, 3), 2, 5), ((), 3, 4), ((1, 2, 2), 4, 2)]
    trials = [
        (3 * torch.randn(*leading, r * c + 1, r * c + 1, generator=generator), r, c)
        for leading, r, c in grids
    ]
    soft = [(scores.softmax(dim=-1), rows, cols) for scores, rows, cols in trials]
    slips: Slips = [
        (r"invalid for input|shape|size|too many indices",
         "maps may have any number of axes in front: take maps[..., 0, 1:], "
         "then lay it out as (..., rows, cols)."),
    ]  # fmt: skip
    return compare(implementation, class_token_maps, soft, mistakes, slips, gradients=False)


@exercise
def check_attention_rollout(implementation: Callable[[Tensor], Tensor]) -> bool:
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
        (lambda maps: product(maps.mean(dim=2)), "the identity is left out: the "
         "residual stream hands every token on to itself, so add torch.eye(T) "
         "before normalising."),
        (lambda maps: product(halves(maps.mean(dim=2), axis=-2)),
         "the columns are normalised; a reader is a row, so divide by the sum "
         "over the last axis."),
        (lambda maps: product(halves(maps.mean(dim=2)), earlier_left=True),
         "the blocks are multiplied in the wrong order: the later block stands "
         "on the left, step @ rollout."),
        (lambda maps: product(halves(maps.sum(dim=2))),
         "the heads are summed, so the identity counts for less than half: take "
         "their mean."),
        (lambda maps: product(halves(maps.amax(dim=2))),
         "the largest head was taken; rollout takes the mean over heads (some "
         "codes offer the maximum as another method)."),
        (lambda maps: halves(maps.mean(dim=2))[:, -1],
         "this is the last block alone: multiply through all blocks."),
        *((lambda maps, own=own: product(
            own * torch.eye(maps.shape[-1]) + (1 - own) * maps.mean(dim=2)),
           f"the identity weighs {own:g}; it weighs one half, as attention does.")
          for own in (0.9, 0.1, 0.2, 0.8)),
        (lambda maps: product(halves(maps.mean(dim=2))[:, :-1]), "the last block is left out."),
        (lambda maps: product(halves(maps.mean(dim=2))[:, 1:]), "the first block is left out."),
        (lambda maps: product(halves(maps.mean(dim=2))) + torch.eye(maps.shape[-1]),
         "an identity is added once more at the end."),
        (lambda maps: halves(maps.mean(dim=2))[:, 0],
         "this is the first block alone: multiply through all blocks."),
        (lambda maps: product(maps.mean(dim=2) + torch.eye(maps.shape[-1])),
         "rows are not normalised after the identity is added: they sum to 2 in "
         "every block."),
        (lambda maps: halves(maps.mean(dim=2)).mean(dim=1),
         "the blocks are averaged; what was read through several blocks is a "
         "matrix product."),
        (lambda maps: halves(maps.mean(dim=2)).prod(dim=1),
         "the blocks are multiplied element by element: use the matrix product "
         "@."),
        (lambda maps: product(halves(maps.mean(dim=2).mT)),
         "the maps are transposed before they are multiplied: row t is what "
         "token t reads."),
        (lambda maps: product(halves(maps.mean(dim=2)))[:, 0],
         "this is the class token's row; return all rows, (B T T)."),
        (lambda maps: product(halves(maps.mean(dim=2))).mT,
         "the result is transposed: row t belongs to the reader t."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 2, 5), (1, 2, 4, 3), (3, 4, 3, 6)]  # (B L h T)
    trials = [(3 * torch.randn(*shape, shape[-1], generator=generator),) for shape in shapes]
    soft = [(scores.softmax(dim=-1),) for (scores,) in trials]
    return compare(implementation, attention_rollout, soft, mistakes, gradients=False)


@exercise
def check_disagreement(implementation: Callable[[Tensor], Tensor]) -> bool:
    """Check `my_disagreement(rollout (B T T)) -> (B)`: the largest gap between two readers."""

    def gap(rollout: Tensor, axis: int = 1) -> Tensor:
        return (rollout.amax(dim=axis) - rollout.amin(dim=axis)).amax(dim=-1)

    mistakes: Mistakes = [
        (lambda r: gap(r, 2), "this compares what one reader reads; readers are "
         "rows, so compare along axis 1."),
        (lambda r: (r.amax(dim=1) - r.amin(dim=1)).mean(dim=-1),
         "this is a mean over the tokens that are read; take the largest."),
        (lambda r: gap(r).max(), "one number for the whole batch; keep one for "
         "each image."),
        (lambda r: r.std(dim=1).amax(dim=-1), "this is a standard deviation; "
         "take the largest minus the smallest."),
        (lambda r: (r.amax(dim=1) - r.amin(dim=1)), "one number for each token "
         "that is read; take the largest of them."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3), (1, 7), (4, 5)]
    trials = [(torch.randn(B, T, T, generator=generator).softmax(dim=-1),) for B, T in shapes]
    return compare(implementation, gap, trials, mistakes, gradients=False)


@exercise
def check_reader_map(implementation: Callable[..., Tensor]) -> bool:
    """Check `my_reader_map(weights (T T), rows, cols, row, col) -> (rows cols)`.

    What the patch at (row, col) reads from every patch; token 0 is the class token.
    """

    def lay(values: Tensor, rows: int, cols: int) -> Tensor:
        return values.reshape(rows, cols)

    mistakes: Mistakes = [
        (lambda w, R, C, r, c: lay(w[r * C + c, 1:], R, C),
         "one token too early: token 0 is the class token."),
        (lambda w, R, C, r, c: lay(w[1:, 1 + r * C + c], R, C),
         "a column says who reads this patch; take its row."),
        (lambda w, R, C, r, c: lay(w[(1 + c * R + r) % len(w), 1:], R, C),
         "patches count along a row of the grid first: 1 + row * cols + col."),
        (lambda w, R, C, r, c: lay(w[(1 + c * C + r) % len(w), 1:], R, C),
         "row and col are swapped: 1 + row * cols + col."),
        (lambda w, R, C, r, c: lay(w[(1 + r * R + c) % len(w), 1:], R, C),
         "a row of the grid has `cols` patches: 1 + row * cols + col."),
        (lambda w, R, C, r, c: lay(w[1 + r * C + c, :-1], R, C),
         "drop the weight on the class token, which comes first."),
        (lambda w, R, C, r, c: lay(w[1 + r * C + c, 1:], C, R).T,
         "the map is laid out column by column."),
        (lambda w, R, C, r, c: lay(w[0, 1:], R, C), "this is what the class "
         "token reads."),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    grids = [(3, 5, 1, 2), (2, 4, 1, 0), (4, 3, 0, 2)]
    trials = [
        (torch.rand(R * C + 1, R * C + 1, generator=generator), R, C, r, c) for R, C, r, c in grids
    ]

    def reference(w: Tensor, R: int, C: int, r: int, c: int) -> Tensor:
        return lay(w[1 + r * C + c, 1:], R, C)

    return compare(implementation, reference, trials, mistakes, gradients=False)


@exercise
def check_occlusion_map(implementation: Callable[..., Tensor]) -> bool:
    """Check `my_occlusion_map(model, normalise, pixels (1 C H W), label, P) -> (rows cols)`.

    By how much the probability of `label` falls when a patch of the pixels is painted black.
    """

    def drops(
        model: Callable[[Tensor], Tensor], normalise: Callable[[Tensor], Tensor], pixels: Tensor,
        label: int, P: int, *, late: bool = False, stay: bool = False, ink: float = 0.0,
        scores: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        read = scores or (lambda logits: logits.softmax(dim=-1))
        rows, cols = pixels.shape[2] // P, pixels.shape[3] // P
        fall = torch.empty(rows, cols)
        whole = read(model(normalise(pixels)))[0, label]
        blank = normalise(pixels) if late else pixels.clone()
        for i in range(rows):
            for j in range(cols):
                if not stay:
                    blank = normalise(pixels).clone() if late else pixels.clone()
                blank[..., P * i : P * (i + 1), P * j : P * (j + 1)] = ink
                fall[i, j] = whole - read(model(blank if late else normalise(blank)))[0, label]
        return fall

    def left(model: Any, normalise: Any, pixels: Tensor, label: int, P: int) -> Tensor:
        whole = model(normalise(pixels)).softmax(dim=-1)[0, label]
        return whole - drops(model, normalise, pixels, label, P)

    def own_answer(model: Any, normalise: Any, pixels: Tensor, label: int, P: int) -> Tensor:
        return drops(model, normalise, pixels, int(model(normalise(pixels)).argmax()), P)

    mistakes: Mistakes = [
        (lambda *a: -drops(*a), "the sign is turned: a fall counts as positive."),
        (lambda *a: drops(*a, late=True), "painted after normalising, 0 is a "
         "gray: paint the pixels first."),
        (lambda *a: drops(*a).abs(), "this is the size of the change; a probability that rises "
         "counts as negative, without abs."),
        (lambda *a: drops(*a, ink=1.0), "the patch is painted 1, which is white: black is 0."),
        (lambda *a: drops(*a, stay=True), "patches stay painted: paint each on a fresh clone of "
         "the pixels."),
        (lambda *a: left(*a) / (left(*a) + drops(*a)), "this is a ratio; take the difference."),
        (lambda *a: drops(*a) / (left(*a) + drops(*a)), "this is the fall as a share of the "
         "probability; the fall itself is asked for."),
        (left, "this is what is left; take it from the probability of the whole "
         "image."),
        (lambda *a: drops(*a).T, "rows and columns are swapped."),
        (lambda *a: drops(*a, scores=lambda logits: logits),
         "these are logits: apply a softmax to get probabilities."),
        (own_answer, "this follows the model's own answer; take the class `label`."),
        (lambda m, n, p, k, P: drops(m, lambda x: x, p, k, P),
         "the pixels are never normalised; the model reads normalise(pixels)."),
    ]  # fmt: skip
    generator, trials = torch.Generator().manual_seed(0), []
    for (H, W), C, P, labels in [((8, 12), 2, 4, (0, 1, 2)), ((6, 6), 1, 2, (2, 0))]:
        model = strong(VisionTransformer(ViTConfig((H, W), P, C, 3, 1, 8, 16, 2))).float()
        pixels = torch.rand(1, C, H, W, generator=generator)
        trials += [(model, lambda x: (x - 0.3) / 0.2, pixels, label, P) for label in labels]
    return compare(implementation, drops, trials, mistakes, gradients=False)
