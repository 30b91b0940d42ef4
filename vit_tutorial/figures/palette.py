"""The look of every figure: one colour for each piece of the model, on light and on dark paper.

Colour says which piece, never how much: amounts have one scale of their own. Importing this
changes no setting; `plt.rcParams.update(paper())` does.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap, to_rgb, to_rgba

from vit_tutorial.errors import unknown

Number = int | float

PALETTE = {  # on a light page, on a dark one; at least 3:1, and apart for colour-blind readers too
    "patches": ("#1e6c6b", "#75eff5"),
    "projection": ("#2fa181", "#449982"),
    "class_token": ("#e8550c", "#f65901"),
    "positions": ("#5e3297", "#7b5de7"),
    "query": ("#2f6bee", "#54a8fe"),
    "key": ("#694900", "#f4cd81"),
    "value": ("#be77aa", "#c4329d"),
    "mlp": ("#9d5e4e", "#8d6352"),
    "head": ("#97084c", "#fb99b5"),
    "ink": ("#1b1f24", "#e6e9ec"),  # words: at least 4.5:1, as the next
    "quiet": ("#626a74", "#9aa3ad"),
    "paper": ("#ffffff", "#121212"),
}
FONT = ["DejaVu Sans"]  # matplotlib brings it, so a figure is laid out alike on every machine
ALIASES = {"image": "patches", "attention": "query"}
MODES = ("light", "dark")
AMOUNTS = (  # attention's blue in equal steps of CIEDE2000; zero is the page
    "#ffffff #dae8ff #a9c8ff #72a1fa #457df2 #2c5fd6 #23439f #192864 #10142f",
    "#121212 #172033 #1c3368 #2a52a2 #366fd8 #5391f0 #82bafc #c0dfff #f2f8ff",
)
BELOW_ZERO = (  # rust of the same lightness, step by step: equal amounts look equally strong
    "#ffffff #fee1d4 #f7b99b #e68a5c #d26124 #b34300 #842f00",
    "#121212 #301b11 #5a260b #8c3e15 #bb551e #d87846 #f0a580",
)


def paper(mode: str = "light", **extra: Any) -> dict[Any, Any]:
    """Settings for `plt.rcParams.update` or `plt.rc_context`; `extra` settings win.

    100 CSS pixels are an inch, stored at twice that. `mode` is "light" or "dark".
    """
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    *pieces, ink, quiet, page = (pair[MODES.index(mode)] for pair in PALETTE.values())
    return {
        "figure.dpi": 200, "savefig.dpi": 200, "figure.figsize": (7, 3),
        "figure.facecolor": page, "savefig.facecolor": page, "axes.facecolor": page,
        "font.family": FONT, "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
        "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "axes.titlelocation": "left",
        "text.color": ink, "axes.labelcolor": ink, "axes.titlecolor": ink,
        "xtick.color": quiet, "ytick.color": quiet, "axes.edgecolor": quiet, "grid.color": quiet,
        "axes.linewidth": 0.8, "lines.linewidth": 1.8, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "image.interpolation": "nearest",
        "figure.constrained_layout.h_pad": 0.08, "savefig.pad_inches": 0.02,
        "axes.prop_cycle": cycler(color=pieces), **extra,
    }  # fmt: skip


def mode_in_force() -> int:
    """1 where figures now have a dark page, else 0, also before any `paper()`."""
    *page, alpha = to_rgba(plt.rcParams["figure.facecolor"])
    return int(alpha > 0 and sum(page) < 1.5)


def colour(name: str) -> str:
    """A piece's colour, or "ink", "quiet" or "paper", in the mode now in force."""
    name = ALIASES.get(name, name)
    if name not in PALETTE:
        raise unknown("piece", name, [*PALETTE, *ALIASES])
    return PALETTE[name][mode_in_force()]


def tint(name: str, amount: Number = 0.16) -> tuple[float, float, float]:
    """A piece's colour thinned with paper: a fill on which ink stays readable."""
    red, green, blue = amount * rgb(colour(name)) + (1 - amount) * rgb(colour("paper"))
    return red, green, blue


def rgb(name: Any) -> Float[np.ndarray, "3"]:
    return np.array(to_rgb(name))


def ink_on(fill: Any) -> str:
    """Black or white, whichever reads better on this colour."""
    luminance = rgb(fill) ** 2.2 @ (0.213, 0.715, 0.072)
    return "#000000" if luminance > 0.179 else "#ffffff"


def amounts(signed: bool = False) -> LinearSegmentedColormap:
    """The scale of attention weights; `signed` adds an end below zero, with the page between."""
    colours, below = (both[mode_in_force()].split() for both in (AMOUNTS, BELOW_ZERO))
    if signed:  # without blue's last two steps: nearly black or white, they would hide the sign
        colours = below[:0:-1] + colours[:7]
    return LinearSegmentedColormap.from_list("amounts", colours)
