"""A pytest plugin: when a chapter has run, go back through it and run every cell once more.

    python -m pytest -p tools.twice --nbval-lax book/05_attention_heads.ipynb

The second time the cells run from the last to the first, so each of them meets whatever the later
ones left behind, as when a reader goes back to it. Outputs tagged `nbval-check-output` are compared
both times.
"""

from itertools import groupby

from nbval.plugin import IPyNbCell


def again(cell: IPyNbCell) -> IPyNbCell:
    """The same cell as one more test."""
    return IPyNbCell.from_parent(
        cell.parent,
        name=f"{cell.name}, again",
        cell_num=cell.cell_num,
        cell=cell.cell,
        options=cell.options,
    )


def pytest_collection_modifyitems(items: list) -> None:
    """Behind the cells of each notebook stand the same cells, the last one first."""
    found = [list(group) for _, group in groupby(items, key=lambda item: item.parent)]
    items[:] = [
        item
        for cells in found
        for item in [*cells, *(again(c) for c in reversed(cells) if isinstance(c, IPyNbCell))]
    ]
