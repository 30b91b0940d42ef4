"""What a model gets right and wrong on its test images: one HTML page that needs no other file."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vit_tutorial.attention_maps import class_token_maps
from vit_tutorial.data import Data
from vit_tutorial.errors import shown
from vit_tutorial.figures.report import draw_confusion, draw_error, draw_errors, page
from vit_tutorial.figures.sheets import picture, show_history
from vit_tutorial.model import VisionTransformer

WORST = 12  # errors that are shown
MOST = 30  # classes whose confusion matrix is drawn with a cell of 28 pixels for each pair
PAIRS = 20  # of classes that are listed where there are more


def html_report(
    model: VisionTransformer,
    data: Data,
    logits: Float[Tensor, "M K"],
    history: Sequence[Mapping[str, Any]],
    facts: Mapping[str, object],
) -> str:
    """The page, from the logits of all test images and the record of every epoch.

    `facts` are listed as they are: where the weights come from, the command, and the like.
    """
    probabilities, labels = logits.cpu().softmax(dim=1), data.test.labels
    K = len(data.classes)
    pairs = K * labels + probabilities.argmax(dim=1)
    matrix = torch.bincount(pairs, minlength=K * K).view(K, K)
    return page(
        title=f"Fine-tuned on {words(data.name)}",
        headline=headline(matrix, data),
        confusion=confusion(matrix, data.classes),
        classes=class_table(matrix, data.classes),
        errors=worst_errors(model, data, probabilities),
        curves=learning_curves(history),
        facts="".join(f"<dt>{words(k)}</dt><dd>{words(v)}</dd>" for k, v in facts.items()),
    )


def words(name: object) -> str:
    """A name from outside as words of the page."""
    return escape(shown(name))


def wilson(right: int, n: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence, by Wilson's score interval (1927)."""
    z, share = 1.959964, right / n
    middle, spread = share + z * z / (2 * n), math.sqrt(share * (1 - share) / n + (z / n / 2) ** 2)
    low, high = ((middle + sign * z * spread) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def baseline(data: Data) -> tuple[str, int]:
    """The commonest class of the training images, and how many of the test images are of it."""
    commonest = int(data.train.labels.bincount().argmax())
    return data.classes[commonest], int((data.test.labels == commonest).sum())


def headline(matrix: Int[Tensor, "K K"], data: Data) -> str:
    """How many test images are right, how sure that is, and what a constant answer would get."""
    right, n = int(matrix.trace()), int(matrix.sum())
    (low, high), (commonest, always) = wilson(right, n), baseline(data)
    copies = getattr(data, "copies", 0)  # known of folders
    used = (
        f"{copies} test images are exact copies of training images"
        if copies
        else ("No test image was used in fine-tuning")
    )
    return (
        f"<p><strong>{right / n:.1%} of the test images are right</strong> ({right} of {n}; 95 % "
        f"interval {low:.1%} to {high:.1%}, Wilson). Always to answer “{words(commonest)}”, the "
        f"commonest class of the training images, would get {always / n:.1%}. {used}.</p>"
    )


def confusion(matrix: Int[Tensor, "K K"], classes: Sequence[str]) -> str:
    """The confusion matrix, its names as words of the page; past MOST classes the worst pairs."""
    worst, K = most_confused(matrix, classes), len(classes)
    alt = f"Confusion matrix; {int(matrix.trace())} of {int(matrix.sum())} on the diagonal. "
    if worst:
        alt += "Most often {} is taken for {}: {} images.".format(*worst[0])
    else:
        alt += "There is no error."
    if K > MOST:
        head = "<tr><th>class</th><th>taken for</th><th>images</th></tr>"
        rows = table(head, [[*map(escape, pair)] for pair in worst])
        return picture(partial(draw_errors, matrix=matrix), 4.8, 4.8, alt) + rows
    spans = "".join(f'<span title="{words(c)}">{words(c)}</span>' for c in classes)
    drawn = picture(partial(draw_confusion, matrix=matrix), 0.28 * K, 0.28 * K, alt)
    return (
        '<div class="wide" tabindex="0" role="group" aria-label="Confusion matrix">'
        '<div class="matrix"><span>true, across: predicted</span>'
        f'<div class="columns">{spans}</div><div class="rows">{spans}</div>{drawn}</div></div>'
    )


def most_confused(matrix: Int[Tensor, "K K"], classes: Sequence[str]) -> list[tuple[str, str, str]]:
    """The commonest errors, at most PAIRS of them: true class, predicted class, how many images."""
    errors, K = matrix - matrix.diag().diag(), len(classes)
    counts, pairs = (found.tolist() for found in errors.flatten().topk(min(PAIRS, K * K)))
    rows = [(n, *divmod(pair, K)) for n, pair in zip(counts, pairs, strict=True) if n]
    sizes = matrix.sum(dim=1).tolist()
    return [(shown(classes[a]), shown(classes[b]), f"{n} of {sizes[a]}") for n, a, b in rows]


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    body = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def class_table(matrix: Int[Tensor, "K K"], classes: Sequence[str]) -> str:
    """For every class its test images, how many are right, and how sure that is."""
    head = "<tr><th>class</th><th>right</th><th>accuracy</th><th>95 % interval</th></tr>"
    rows = []
    for name, row, right in zip(classes, matrix, matrix.diag().tolist(), strict=True):
        n = int(row.sum())
        low, high = wilson(right, n) if n else (0.0, 1.0)
        accuracy = f"{right / n:.1%}" if n else "no images"
        rows.append((words(name), f"{right} of {n}", accuracy, f"{low:.0%} to {high:.0%}"))
    return table(head, rows)


def worst_errors(model: VisionTransformer, data: Data, probabilities: Float[Tensor, "M K"]) -> str:
    """The errors that the model was surest of, each beside what its last block read."""
    sure, predicted = probabilities.max(dim=1)
    wrong = (predicted != data.test.labels).nonzero()[:, 0]
    if not len(wrong):
        return "<p>There is none: every test image is right.</p>"
    worst = wrong[sure[wrong].argsort(descending=True)][:WORST]
    reader = "the class token reads" if model.config.pool == "token" else "all tokens read"
    figures = [error_figure(model, data, probabilities[i], int(i), reader) for i in worst]
    return (
        f"<p>Shown: {len(worst)} of {len(wrong)}, the surest first. On the left is the image as "
        f"the model gets it, on the right what {reader} in the last block, as the mean over heads: "
        "the darker (on a dark page the lighter), the more. It shows where the model looks, not "
        f'why it errs.</p><div class="errors">{"".join(figures)}</div>'
    )


def error_figure(
    model: VisionTransformer, data: Data, shares: Float[Tensor, " K"], i: int, reader: str
) -> str:
    """One image that was taken for another class, and its attention map."""
    image, true, predicted = data.test.images[i], int(data.test.labels[i]), int(shares.argmax())
    ready = data.test.normalise(image[None].float() / 255).to(next(model.parameters()))
    weights = class_token_maps(model.attention_maps(ready)[0, -1].mean(dim=0), *model.config.grid)

    names = [shown(data.classes[label]) for label in (true, predicted)]
    alt = f"An image of {names[0]}, and how much {reader} of its {weights.numel()} patches."
    drawn = picture(partial(draw_error, image=image, weights=weights), 3.6, 1.7, alt)
    return (
        f"<figure>{drawn}<figcaption>Taken for <strong>{escape(names[1])}</strong> "
        f"({shares[predicted]:.1%}), is <strong>{escape(names[0])}</strong> ({shares[true]:.1%})"
        "</figcaption></figure>"
    )


def learning_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """What every epoch gave, in one picture."""
    first, last = history[0], history[-1]
    alt = (
        f"Learning curves over {len(history)} epochs: training loss from {first['train_loss']:.2f} "
        f"to {last['train_loss']:.2f}, validation loss from {first['val_loss']:.2f} to "
        f"{last['val_loss']:.2f}, validation accuracy from {first['val_accuracy']:.1%} to "
        f"{last['val_accuracy']:.1%}."
    )
    return picture(lambda figure: show_history(figure, history), 3.6, 4, alt)
