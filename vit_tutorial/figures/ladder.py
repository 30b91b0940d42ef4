"""The ladder: how accurate the model is after every chapter, as a table and as a figure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from vit_tutorial.figures.palette import colour

Runs = Sequence[dict[str, Any]]  # of the record "ladder"


class Rung(NamedTuple):
    """One model of the ladder, and what its seeds reached."""

    name: str
    chapter: int
    parameters: int
    accuracies: list[float]  # in percent, one a seed

    @property
    def mean(self) -> float:
        """Of all seeds."""
        return sum(self.accuracies) / len(self.accuracies)


def rungs(runs: Runs, until: int) -> list[Rung]:
    """The rungs of the chapters up to `until`, in their order; later ones are left out.

    Raises ValueError if there is none.
    """
    found: dict[str, Runs] = {}
    for run in sorted(runs, key=lambda run: run["chapter"]):  # stable: else as recorded
        if run["chapter"] <= until:
            found[run["variant"]] = [*found.get(run["variant"], []), run]
    if not found:
        raise ValueError(f"no rung up to chapter {until} among {len(runs)} runs")
    return [
        Rung(name, same[0]["chapter"], same[0]["parameters"],
             [100 * run["validation_accuracy"] for run in same])
        for name, same in found.items()
    ]  # fmt: skip


def ladder_table(runs: Runs, until: int) -> str:
    """The rungs so far as text: mean, lowest and highest validation accuracy in %, and n."""
    lines = ["ch.  validation accuracy in %       mean  lowest highest  n  parameters"]
    for rung in rungs(runs, until):
        found = rung.accuracies
        numbers = f"{rung.mean:6.1f}{min(found):8.1f}{max(found):8.1f}{len(found):3}"
        lines.append(f"{rung.chapter:02}   {rung.name:31}{numbers}{rung.parameters:12,}")
    return "\n".join(lines)


def show_ladder(ax: Axes, runs: Runs, until: int) -> Axes:
    """A row for each rung so far: a ring for each seed, and the mean.

    The rungs of chapter `until` have a colour. A dashed line marks the first rung, which the others
    have to pass.
    """
    found = rungs(runs, until)
    ax.axvline(found[0].mean, color=colour("quiet"), lw=0.8, ls="--", zorder=0)
    for row, rung in enumerate(found):
        ink = colour("head" if rung.chapter == until else "quiet")
        ax.plot(rung.accuracies, [row] * len(rung.accuracies), "o", ms=6, mfc="none", color=ink)
        ax.text(124, row, f"{rung.mean:.1f}", ha="right", va="center", fontsize=8.5)
    ax.set_yticks(range(len(found)), [rung.name for rung in found])
    n = min(len(rung.accuracies) for rung in found)
    ax.set(xlim=(0, 125), xticks=range(0, 101, 20), ylim=(len(found) - 0.5, -0.5))
    ax.set_xlabel(f"validation accuracy in %, n = {n}", loc="right")  # a phone has no room left
    return ax
