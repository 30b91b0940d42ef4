"""The page of a report, and its drawings; `vit_tutorial.lab.report` writes the words."""

from pathlib import Path
from string import Template

from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from vit_tutorial.figures.palette import PALETTE, amounts
from vit_tutorial.figures.plots import show_attention, show_confusion, show_images


def page(**parts: str) -> str:
    """The HTML page with its parts, which are HTML, in light and dark colours."""
    colours = {f"{n}{i}": PALETTE[n][i] for n in ("ink", "quiet", "paper") for i in range(2)}
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return Template(template).substitute(colours | parts)


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
