"""What a model gets right and wrong on its test images: one HTML page that needs no other file."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from vit_tutorial.attention_maps import class_token_maps
from vit_tutorial.data import Data
from vit_tutorial.figures.palette import PALETTE
from vit_tutorial.figures.plots import show_attention, show_confusion, show_images
from vit_tutorial.figures.sheets import picture, show_history
from vit_tutorial.model import VisionTransformer

WORST = 12  # errors that are shown
PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: $ink0; --quiet: $quiet0; --paper: $paper0 }
@media (prefers-color-scheme: dark) { :root { --ink: $ink1; --quiet: $quiet1; --paper: $paper1 } }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; line-height: 1.5;
  font-family: system-ui, sans-serif; color: var(--ink); background: var(--paper) }
h1, dd, td:first-child { overflow-wrap: anywhere }
.wide { overflow-x: auto }
.wide img { max-width: none }
img { max-width: 100%; height: auto; display: block }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--quiet) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td:not(:first-child) { white-space: nowrap }
.errors { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)) }
figure { margin: 0 }
dt { color: var(--quiet) }
dd { margin: 0 0 0.5rem }
</style>
<main>
<h1>$title</h1>
$headline
<h2>Which class is taken for which</h2>
$confusion
<h2>Class by class</h2>
$classes
<h2>The worst errors</h2>
$errors
<h2>Training</h2>
$curves
<dl>$facts</dl>
</main>
</html>
""")


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
    colours = {f"{n}{i}": PALETTE[n][i] for n in ("ink", "quiet", "paper") for i in range(2)}
    return PAGE.substitute(
        colours,
        title=f"Fine-tuned on {escape(data.name)}",
        headline=headline(matrix, data),
        confusion=confusion(matrix, data.classes),
        classes=class_table(matrix, data.classes),
        errors=worst_errors(model, data, probabilities),
        curves=learning_curves(history),
        facts="".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items()),
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence, by Wilson's score interval (1927)."""
    z, share = 1.959964, right / n
    middle, spread = share + z * z / (2 * n), math.sqrt(share * (1 - share) / n + (z / n / 2) ** 2)
    low, high = ((middle + sign * z * spread) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


def headline(matrix: Int[Tensor, "K K"], data: Data) -> str:
    """How many test images are right, how sure that is, and what a constant answer would get."""
    right, n = int(matrix.trace()), int(matrix.sum())
    low, high = wilson(right, n)
    commonest = int(data.train.labels.bincount().argmax())
    always = int(matrix[commonest].sum()) / n
    return (
        f"<p><strong>{right / n:.1%} of the test images are right</strong> ({right} of {n}; 95 % "
        f"interval {low:.1%} to {high:.1%}, Wilson). Always to answer "
        f"“{escape(data.classes[commonest])}”, the commonest class of the training images, would "
        f"get {always:.1%}. No test image was used in fine-tuning.</p>"
    )


def confusion(matrix: Int[Tensor, "K K"], classes: Sequence[str]) -> str:
    """The confusion matrix, wide enough for its numbers."""
    # matplotlib reads what stands between dollars as mathematics
    names = [(c if len(c) <= 16 else c[:15] + "…").replace("$", r"\$") for c in classes]
    side = max(2.4, 0.28 * len(classes) + 0.07 * max(map(len, names)) + 0.5)
    errors = matrix - matrix.diag().diag()
    true, predicted = divmod(int(errors.argmax()), len(classes))
    alt = f"Confusion matrix; {int(matrix.trace())} of {int(matrix.sum())} on the diagonal. " + (
        f"Most often {classes[true]} is taken for {classes[predicted]}: {int(errors.max())} of "
        f"{int(matrix[true].sum())} images."
        if errors.any()
        else "There is no error."
    )

    def draw(figure: Figure) -> None:
        show_confusion(figure.subplots(), matrix, names)

    shown = picture(draw, side, side, alt)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="Confusion matrix">{shown}</div>'
    )


def class_table(matrix: Int[Tensor, "K K"], classes: Sequence[str]) -> str:
    """For every class its test images, how many are right, and how sure that is."""
    head = "<tr><th>class</th><th>right</th><th>accuracy</th><th>95 % interval</th></tr>"
    rows = []
    for name, row, right in zip(classes, matrix, matrix.diag().tolist(), strict=True):
        n = int(row.sum())
        low, high = wilson(right, n) if n else (0.0, 1.0)
        accuracy = f"{right / n:.1%}" if n else "no images"
        cells = (escape(name), f"{right} of {n}", accuracy, f"{low:.0%} to {high:.0%}")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


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

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        show_images(left, image.expand(1, 3, -1, -1))  # in its own colours, grey too
        show_attention(right, image.float().mean(dim=0, keepdim=True) / 255, weights)

    names = [escape(data.classes[label]) for label in (true, predicted)]
    alt = (
        f"An image of {data.classes[true]}, and how much {reader} of its {weights.numel()} patches."
    )
    return (
        f"<figure>{picture(draw, 3.6, 1.7, alt)}<figcaption>Taken for <strong>{names[1]}</strong> "
        f"({shares[predicted]:.1%}), is <strong>{names[0]}</strong> ({shares[true]:.1%})"
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
