"""Chapter 12: a head in closed form, other people's weights, a control, and neighbours."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.checks.core import Mistakes, Slips, compare, exercise
from vit_tutorial.data import Split


@exercise
def check_least_squares(implementation: Callable[[Tensor, Tensor, int, float], Tensor]) -> bool:
    """Check `my_least_squares(X (M D), labels (M), K, strength) -> (D+1 K)`, the bias below W."""

    def ridge(
        X: Tensor, labels: Tensor, K: int, strength: float, *,
        centre: bool = True, last: bool = True, targets: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        Y = torch.eye(K)[labels]
        Y = targets(Y) if targets else 2 * Y - 1
        x, y = (X.mean(dim=0), Y.mean(dim=0)) if centre else (0 * X[0], 0 * Y[0])
        A = (X - x).T @ (X - x) + strength * torch.eye(X.shape[1])
        W = torch.linalg.pinv(A) @ (X - x).T @ (Y - y)
        return torch.cat([W, (y - x @ W)[None] if last else 0 * y[None]])

    def ones(X: Tensor) -> Tensor:
        return torch.cat([X, torch.ones(len(X), 1)], dim=1)

    mistakes: Mistakes = [
        (lambda *a: ridge(*a, targets=lambda Y: Y), "the targets are 0 and 1: "
         "make them -1 and 1."),
        (lambda X, y, K, a: ridge(X, y, K, 0.0), "the strength is not used."),
        (lambda X, y, K, a: ridge(X, y, K, a * len(X)),
         "the squared errors are averaged over the images; add them up."),
        (lambda X, y, K, a: ridge(X, y, K, a**2), "the strength is squared."),
        (lambda X, y, K, a: ridge(ones(X), y, K, a, centre=False)[:-1],
         "the bias is penalised too: take the means off X and Y instead of "
         "adding a column of ones."),
        (lambda *a: ridge(*a, last=False), "the bias is missing."),
        (lambda *a: ridge(*a, centre=False), "take the means off X and Y first."),
        (lambda *a: ridge(*a)[:-1], "the row of the bias is missing: (D+1 K)."),
        (lambda *a: torch.cat([ridge(*a)[-1:], ridge(*a)[:-1]]),
         "the bias stands above W; it comes below."),
        (lambda *a: ridge(*a).T, "the result is transposed: (D+1 K)."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    trials = [
        (torch.randn(9, D, generator=dice) + 1, torch.arange(9) % 4 % 3, 3, strength)
        for D, strength in ((4, 0.5), (12, 3.0))
    ]
    slips: Slips = [
        (r"mat1 and mat2|must match|size", "X is (M D) and Y (M K): XᵀX is (D "
         "D), XᵀY is (D K)."),
        (r"singular", "the strength on the diagonal is missing, strength * "
         "torch.eye(D)."),
    ]  # fmt: skip
    return compare(implementation, ridge, trials, mistakes, slips, gradients=False)


@exercise
def check_qkv(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Check `my_qkv(query (D h d), key, value) -> weight (3D D)` of one linear layer."""

    def packed(*kernels: Tensor, lay: Any = lambda w: w.flatten(1).T) -> Tensor:
        return torch.cat([lay(w) for w in kernels])

    mistakes: Mistakes = [
        (lambda q, k, v: packed(q, k, v, lay=lambda w: w.flatten(1)),
         "the kernels are not transposed: a linear weight is (outputs inputs). (A reshape moves "
         "nothing: flatten (h d), then transpose.)"),
        (lambda q, k, v: packed(q, k, v, lay=lambda w: w.mT.flatten(1).T),
         "heads and their numbers are swapped: the outputs are (h d), head by "
         "head."),
        (lambda q, k, v: packed(k, q, v), "the key comes before the query."),
        (lambda q, k, v: packed(v, k, q), "the value comes first; the order is "
         "query, key, value."),
        (lambda q, k, v: packed(q, v, k), "the value comes before the key."),
        (lambda q, k, v: torch.stack([q, k, v], dim=2).flatten(1).T,
         "each head has its q, k and v together; put all queries first."),
        (lambda q, k, v: packed(q, k, v).T, "joined along the wrong axis: the "
         "weight is (3D D)."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    trials = [tuple(torch.randn(3, h * d, h, d, generator=dice)) for h, d in ((2, 4), (3, 2))]
    return compare(implementation, packed, trials, mistakes, gradients=False)


@exercise
def check_control(implementation: Callable[[Callable[[Split], Tensor], Split, Split], Any]) -> bool:
    """Check `my_control(read, few, test) -> accuracy` of a head fitted on what `read` gives.

    `least_squares` with 5 classes and strength 10, fitted on `few`, tested on `test`.
    """
    from vit_tutorial.transfer import least_squares  # slow to import

    Read = Callable[[Split], Tensor]

    def by(
        fit: Tensor, labels: Tensor, read: Tensor, truth: Tensor, strength: float = 10.0
    ) -> float:
        guesses = least_squares(fit, labels, classes=5, strength=strength)(read).argmax(dim=1)
        return (guesses == truth).double().mean().item()

    def pixels(split: Split) -> Tensor:
        return split.images.flatten(1) / 255

    def reference(read: Read, few: Split, test: Split) -> float:
        return by(read(few), few.labels, read(test), test.labels)

    mistakes: Mistakes = [
        (lambda read, few, test: by(read(test), test.labels, read(test), test.labels),
         "the head was fitted on the test images, so it has seen the answers: "
         "fit it on few."),
        (lambda read, few, test: by(read(few), few.labels, read(few), few.labels),
         "this is the accuracy on the images that the head was fitted to: test "
         "it on test."),
        (lambda read, few, test: by(pixels(few), few.labels, pixels(test), test.labels),
         "the pixels are read directly: read both splits with `read`."),
        (lambda read, few, test: by(read(few), few.labels, read(test), test.labels, 1.0),
         "the strength is 10 here."),
        (lambda *a: reference(*a) * len(a[2]), "this is the number of right "
         "images: divide by how many there are."),
        (lambda *a: 100 * reference(*a), "this is a percentage; return a share, "
         "0 to 1."),
        (lambda *a: 1 - reference(*a), "this is the share of wrong images."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(1)
    means = torch.randint(256, (5, 1, 4, 4), generator=dice)
    labels = torch.arange(215) % 5
    noise = torch.randint(-200, 201, (215, 1, 4, 4), generator=dice)
    images = (means[labels] + noise).clamp(0, 255).byte()
    few, test = (
        Split(images[rows], labels[rows], torch.tensor([0.5]), torch.tensor([0.3]))
        for rows in (slice(15), slice(15, 215))
    )
    mix = 2 * torch.randn(16, 12, generator=dice)
    reads: list[Read] = [pixels, lambda split: (pixels(split) - 0.5) @ mix]
    trials = [(read, few, test) for read in reads]
    return compare(implementation, reference, trials, mistakes, gradients=False)


@exercise
def check_nearest(implementation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
    """Check `my_nearest(known (M D), labels (M), asked (B D)) -> labels (B)`, by the cosine."""
    unit = F.normalize

    def by(a: Tensor, b: Tensor, labels: Tensor, largest: bool = True) -> Tensor:
        likeness = a @ b.T
        return labels[likeness.argmax(dim=1) if largest else likeness.argmin(dim=1)]

    mistakes: Mistakes = [
        (lambda x, y, z: by(z, x, y), "long vectors win: divide each by its "
         "length."),
        (lambda x, y, z: by(unit(z), unit(x), y, largest=False),
         "this is the farthest."),
        (lambda x, y, z: y[torch.cdist(z, x).argmin(dim=1)],
         "this is the smallest distance, not the most similar direction."),
        (lambda x, y, z: (unit(z) @ unit(x).T).argmax(dim=1),
         "this is the number of the neighbour; look up its label."),
        (lambda x, y, z: by(unit(z, dim=0), unit(x, dim=0), y),
         "each column was divided by its length; divide each vector, dim=1."),
    ]  # fmt: skip
    dice = torch.Generator().manual_seed(0)
    trials = []
    for M, B, D in ((30, 50, 4), (20, 40, 7)):
        known, asked = (torch.randn(n, D, generator=dice) for n in (M, B))
        known = known * torch.rand(M, 1, generator=dice)
        trials.append((known, torch.arange(M) % 5 + 7, asked))
    return compare(
        implementation, lambda x, y, z: by(unit(z), unit(x), y), trials, mistakes, gradients=False
    )
