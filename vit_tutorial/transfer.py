"""A trained model put to new work: a new head, other images, few examples."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vit_tutorial.data import Split, batches, check_labels
from vit_tutorial.model import VisionTransformer
from vit_tutorial.positions import resample_positions
from vit_tutorial.weights.preprocessing import Preprocessing


def transfer(
    model: VisionTransformer,
    classes: int,
    image_size: int | tuple[int, int] | None = None,
    frozen: bool = False,
) -> VisionTransformer:
    """A copy of the model with a new head for `classes` classes, as in Sections 3.1 and 3.2.

    The head is one linear layer that starts at zero. Images may have another size: learned
    positions are resampled to the new grid. With `frozen` the head alone is trained, and the rest
    has no dropout. Raises ValueError if the patches do not divide the new size.
    """
    old = model.config
    size = old.image_size if image_size is None else image_size
    config = replace(
        old, classes=classes, image_size=size, representation_size=None,
        dropout=0.0 if frozen else old.dropout,
    )  # fmt: skip
    made = VisionTransformer(config).to(next(model.parameters()))
    body = {name: w for name, w in model.state_dict().items() if not name.startswith("head.")}
    if config.positions == "learned":
        body["embedding.positions"] = resample_positions(
            body["embedding.positions"], old.grid, config.grid, int(config.pool == "token")
        )
    made.load_state_dict(made.state_dict() | body)
    for part in (made.embedding, made.encoder):
        part.requires_grad_(not frozen)
    return made.train(model.training)


def adapt(split: Split, prepared: Preprocessing) -> Split:
    """The split to train a model on: whole images in its channels and size, its mean and std.

    As `prepared.split`, but bicubic and without the crop, which would hide the edges of every
    image from training; `finetune` does the same, and its checkpoints say so to whatever reads
    them. Raises ValueError for other numbers of channels than 1 and 3.
    """
    whole = replace(prepared, resize=None, interpolation="bicubic")
    if isinstance(split.images, Tensor):
        return whole.split(split)
    files = replace(split.images, prepared=whole, exact=False)  # read as the model wants them
    return replace(split, images=files, mean=torch.tensor(whole.mean), std=torch.tensor(whole.std))


def features(model: VisionTransformer, split: Split, batch_size: int = 256) -> Float[Tensor, "M D"]:
    """What the head would read for every image of a split, in order, on the CPU.

    Computed in eval mode; the model is left in the mode it was in.
    """
    weight, training = next(model.parameters()), model.training
    epoch = batches(split, batch_size, None, None, weight.device, weight.dtype)
    try:
        model.eval()
        with torch.no_grad():
            found = torch.cat([model.features(images).cpu() for images, _ in epoch])
    finally:
        model.train(training)
    return found.float() if found.itemsize < 4 else found


def few_shot(split: Split, per_class: int, generator: torch.Generator) -> Split:
    """As many images of each class, drawn at random; ValueError if a class has fewer."""
    counts = torch.bincount(split.labels)
    if not 1 <= per_class <= counts.min():
        raise ValueError(
            f"expected 1 to {counts.min()} images of each class (class {counts.argmin()} "
            f"has no more), got {per_class}"
        )
    order = torch.randperm(len(split), generator=generator)
    found = [order[split.labels[order] == label][:per_class] for label in range(len(counts))]
    rows = torch.cat(found)
    return replace(split, images=split.images[rows], labels=split.labels[rows])


def least_squares(
    features: Float[Tensor, "M D"], labels: Int[Tensor, " M"], classes: int, strength: float
) -> nn.Linear:
    """A linear head in closed form: few-shot as in Section 4.1 of the paper.

    W minimises ‖XW + b - Y‖² + strength ‖W‖², where Y is +1 for an image's class and -1 for the
    others: W = (XᵀX + strength I)⁻¹ XᵀY, with X and Y less their means, so that the bias is free.
    Solved in float64, also for M < D. Raises ValueError unless `strength` is above 0, and for a
    label outside 0..K-1.
    """
    if not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength}")
    check_labels(labels, classes)
    X, Y = features.cpu().double(), 2 * F.one_hot(labels.cpu().long(), classes).double() - 1
    from_mean = X - X.mean(dim=0)
    penalty = strength * torch.eye(X.shape[1], dtype=X.dtype)
    W = torch.linalg.solve(from_mean.T @ from_mean + penalty, from_mean.T @ Y)  # (D K)
    head = nn.Linear(*W.shape).to(features)
    with torch.no_grad():
        head.weight.copy_(W.T)
        head.bias.copy_(Y.mean(dim=0) - X.mean(dim=0) @ W)
    return head


def score(estimator: Any, model: VisionTransformer, train: Split, test: Split) -> float:
    """The accuracy on `test` of a scikit-learn classifier that was fitted to `train`'s features.

    Any will do: nearest neighbours, logistic regression (the linear probe), a random forest.
    """
    estimator.fit(features(model, train).numpy(), train.labels.numpy())
    return float(estimator.score(features(model, test).numpy(), test.labels.numpy()))
