"""The ladder: what its table and its figure show."""

import matplotlib.pyplot as plt
import pytest

from vit_tutorial.figures.ladder import ladder_table, show_ladder


def test_the_ladder_shows_every_rung_so_far_with_its_spread_and_no_later_one():
    made = {("late", 5): [0.9], ("old", 2): [0.5, 0.25], ("new", 4): [0.75, 0.75]}
    runs = [
        {"variant": name, "chapter": chapter, "parameters": 1234, "validation_accuracy": share}
        for (name, chapter), shares in made.items()
        for share in shares
    ]
    _, old, new = ladder_table(runs, until=4).splitlines()
    assert old.split() == ["02", "old", "37.5", "25.0", "50.0", "2", "1,234"]
    assert new.split() == ["04", "new", "75.0", "75.0", "75.0", "2", "1,234"]
    ax = show_ladder(plt.figure().subplots(), runs, until=4)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["old", "new"]
    line, *rings = ax.get_lines()
    assert list(line.get_xdata()) == [37.5, 37.5]
    assert [list(ring.get_xdata()) for ring in rings] == [[50, 25], [75, 75]]
    assert rings[1].get_color() != rings[0].get_color()
    with pytest.raises(ValueError, match="no rung up to chapter 1 among 5 runs"):
        ladder_table(runs, until=1)
