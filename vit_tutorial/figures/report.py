"""The page of a report, and its drawings; `vit_tutorial.lab.report` writes the words."""

from string import Template

from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.figures.palette import PALETTE, amounts
from vit_tutorial.figures.plots import show_attention, show_confusion, show_images

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
.matrix { display: inline-grid; grid-template-columns: auto auto; gap: 0.3rem; font-size: 0.85rem;
  line-height: 1.3 }
.matrix span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.matrix > :first-child { align-self: end; color: var(--quiet) }
.columns, .rows { display: grid; grid-auto-rows: 28px; align-items: center; text-align: right }
.columns { grid-auto-flow: column; grid-auto-columns: 28px; grid-auto-rows: auto; align-items: end }
.columns span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 10rem;
  justify-self: center; text-align: left }
.rows span { max-width: 12rem }
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


def page(**parts: str) -> str:
    """The HTML page with its parts, which are HTML, in light and dark colours."""
    colours = {f"{n}{i}": PALETTE[n][i] for n in ("ink", "quiet", "paper") for i in range(2)}
    return PAGE.substitute(colours | parts)


def draw_confusion(figure: Figure, matrix: Int[Tensor, "K K"]) -> None:
    """The cells of a confusion matrix, which fill the figure: the names stand beside it."""
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    show_confusion(ax, matrix, [""] * len(matrix)).set_axis_off()


def draw_errors(figure: Figure, matrix: Int[Tensor, "K K"], cells: int = 240) -> None:
    """The errors of many classes: a point for each pair, or for a square of pairs the most."""
    errors = matrix - matrix.diag().diag()
    square = -(-len(errors) // cells)
    highest = F.max_pool2d(errors[None].float(), square, ceil_mode=True)[0].numpy()
    ax = figure.subplots()
    ax.imshow(highest, cmap=amounts(), vmin=0, extent=(0.5, len(errors) + 0.5) * 2, origin="lower")
    ax.invert_yaxis()
    ax.set(xlabel="predicted class", ylabel="true class")


def draw_error(
    figure: Figure, image: UInt8[Tensor, "C H W"], weights: Float[Tensor, "rows cols"]
) -> None:
    """An image, and beside it how much was read of each of its patches."""
    left, right = figure.subplots(1, 2)
    show_images(left, image.expand(1, 3, -1, -1))  # in its own colours, grey too
    show_attention(right, image.float().mean(dim=0, keepdim=True) / 255, weights)
