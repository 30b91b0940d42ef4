"""Every drawing says what it was given, and nothing else; colours can be told apart."""

import io
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Text
from PIL import Image

from vit_tutorial.figures import diagrams, inside, page, palette, plots, sheets
from vit_tutorial.figures.model_map import LIT, draw_map, inches, model_map, svg_map, where_we_are

DIGIT = torch.zeros(1, 28, 28)
DIGIT[:, 6:22, 12:16] = 1
PHOTO = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.softmax(torch.arange(49.0), 0).reshape(7, 7)
PIECES = [name for name in palette.PALETTE if name not in ("ink", "quiet", "paper")]


both_modes = pytest.mark.parametrize("mode", ["light", "dark"], indirect=True)


pytestmark = pytest.mark.filterwarnings("error:Glyph")  # a letter that the font lacks


@pytest.fixture(scope="module", autouse=True)
def fonts():
    """Only the fonts that matplotlib brings: what the machine has besides must not matter."""
    manager, brought = font_manager.fontManager, Path(matplotlib.get_data_path())
    known = manager.ttflist
    manager.ttflist = [font for font in known if brought in Path(font.fname).parents]
    manager._findfont_cached.cache_clear()
    yield manager.ttflist
    manager.ttflist = known
    manager._findfont_cached.cache_clear()


@pytest.fixture(autouse=True)
def mode(request, fonts):
    name = getattr(request, "param", "light")
    with plt.rc_context(plots.paper(name)):
        yield name
        plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


def arrays(ax):
    return [np.asarray(image.get_array()) for image in ax.images]


def words(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def extents(figure):
    """The words of a figure, each with the place where it lies, in stored pixels."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(Text) if text.get_text().strip()]
    shown = [text for text in found if text.get_visible() and not text.get_rotation() % 90]
    return [(text, Text.get_window_extent(text)) for text in shown]


def crowded(placed):
    """The pairs of words of which one lies on the other."""
    pairs = combinations(placed, 2)
    return [(s.get_text(), t.get_text()) for (s, a), (t, b) in pairs if a.overlaps(b)]


def cut_off(placed, page):
    """The words that leave the page."""
    x, y, right, top = page.extents
    return [
        t.get_text() for t, w in placed if min(w.x0 - x, right - w.x1, w.y0 - y, top - w.y1) < 0
    ]


def misplaced(placed, ax):
    """The words that leave their box, touch another one, or have a line through them."""
    boxes, lines = ([(p.zorder, p.get_window_extent()) for p in ax.patches if isinstance(p, kind)]
                    for kind in (FancyBboxPatch | Circle, FancyArrowPatch))  # fmt: skip
    wrong = []
    for text, where in placed:
        around = [(zorder, box) for zorder, box in boxes if box.overlaps(where)]
        inside = all(box.x0 < where.x0 and where.x1 < box.x1 for _, box in around)
        inside &= all(box.y0 < where.y0 + 2 and where.y1 - 2 < box.y1 for _, box in around)
        covers = text.get_bbox_patch() or any(zorder > 2 for zorder, _ in around)  # a line below it
        crossed = any(line.overlaps(where) for _, line in lines)
        if not inside or (crossed and not covers):
            wrong.append(text.get_text())
    return wrong


# ---- what every drawing promises


def test_figures_are_laid_out_for_the_font_that_matplotlib_brings(fonts):
    assert {font.name for font in fonts} >= {"DejaVu Sans"}
    assert plt.rcParams["font.family"] == ["DejaVu Sans"]
    for look in ({}, {"weight": "bold"}, {"style": "italic"}):
        found = font_manager.findfont(
            font_manager.FontProperties(**look), fallback_to_default=False
        )
        assert Path(matplotlib.get_data_path()) in Path(found).parents


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNTS = 7 * torch.ones(10, 10).long() + 984 * torch.eye(10).long()
SAID = ["is 9\nsaid 4"] * 12
SURE = ["7: 100%"] * 10
LOSSES = {"training": [2, 1, 0.5, 0.21], "validation": [2, 1.1, 0.5, 0.2], "mean": [2, 1, 1, 0.19]}


@pytest.mark.parametrize(
    ("size", "draw"),
    [
        ((4.8, 3.5), lambda ax: plots.show_images(ax, torch.rand(49, 1, 4, 4), range(1, 50), 10)),
        ((3.8, 2.1), lambda ax: plots.show_images(ax, DIGIT.expand(12, 1, 28, 28), SAID, 6)),
        ((4, 1.9), lambda ax: plots.show_images(ax, DIGIT.expand(10, 1, 28, 28), SURE, 5)),
        ((4, 4), lambda ax: plots.show_patches(ax, DIGIT, 4)),
        ((5, 5), lambda ax: plots.show_patches(ax, torch.rand(3, 128, 128), 16)),
        ((3.8, 3.8), lambda ax: plots.show_confusion(ax, COUNTS, range(10))),
        ((3.8, 3.8), lambda ax: plots.show_confusion(ax, COUNTS, TEN)),
        ((6.6, 6), lambda ax: plots.show_confusion(ax, COUNTS, TEN)),
        ((3.6, 3.2), lambda ax: plots.show_matrix(ax, torch.randn(6, 6), range(6), range(6))),
        ((3.6, 2.8), lambda ax: plots.show_matrix(ax, torch.rand(3, 3), TEN[:3], TEN[:3])),
        ((3.4, 3), lambda ax: plots.show_matrix(ax, torch.rand(5, 5), "abcde", ["class", *"1234"])),
        ((3.6, 2.8), lambda ax: plots.show_attention(ax, DIGIT, WEIGHTS)),
        ((3.7, 3.4), lambda ax: plots.show_positions(ax, torch.rand(7, 7, 7, 7) - 0.5)),
        ((3.8, 2), lambda ax: plots.show_curves(ax, LOSSES)),
    ],
)  # fmt: skip
def test_at_the_sizes_of_the_chapters_no_word_lies_on_another_or_off_the_page(size, draw):
    figure = plt.figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    assert crowded(extents(figure)) == []
    drawn = figure.get_tightbbox()  # in inches; a notebook stores three pixels more than the page
    assert -0.03 < drawn.x0 < drawn.x1 < size[0] + 0.03
    assert -0.03 < drawn.y0 < drawn.y1 < size[1] + 0.03


def test_panels_side_by_side_leave_their_words_apart():
    figure = plt.figure(figsize=(3.9, 5.3), layout="constrained")
    plots.show_attention_grid(figure.subplots(6, 4), DIGIT, torch.rand(6, 4, 7, 7))
    assert crowded(extents(figure)) == []


def test_the_words_of_a_row_of_tokens_stay_in_their_boxes():
    figure = plt.figure(figsize=(3.78, 0.68))
    ax = plots.token_row(figure.add_axes((0, 0, 1, 1)), ["[class]", 1, 2, 3, 4, None, 49], "T")
    placed = extents(figure)
    assert crowded(placed) == []
    assert misplaced(placed, ax) == []


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.show_images(ax, DIGIT.expand(3, 1, 28, 28), ["a", "b", "two\nlines"]),
        lambda ax: plots.show_images(ax, PHOTO.expand(12, 3, 32, 48)),
        lambda ax: plots.show_patches(ax, PHOTO, 8),
        lambda ax: plots.show_attention(ax, DIGIT, WEIGHTS),
        lambda ax: plots.show_attention(ax, PHOTO, torch.rand(2, 3), scale=0.5, bar=False),
        lambda ax: plots.show_positions(ax, torch.rand(2, 3, 2, 3) - 0.5),
        lambda ax: plots.show_curves(ax, {"training": [2.0, 1.0], "validation": [2, 1]}),
        lambda ax: plots.show_confusion(ax, torch.eye(3).long(), ["airplane", "bird", "cat"]),
        lambda ax: plots.show_matrix(ax, torch.rand(2, 3), [1, 2], ["[class]", 1, 2]),
        lambda ax: plots.token_row(ax, ["[class]", 1, None, 49], "50 tokens"),
        lambda ax: model_map(ax, "encoder"),
    ],
)
@both_modes
def test_a_drawing_draws_on_its_axes_returns_them_and_changes_no_setting(ax, draw):
    before = dict(plt.rcParams)
    assert draw(ax) is ax
    ax.figure.canvas.draw()
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == [ax.figure.number]


def test_drawings_work_before_any_setting_is_made():
    with plt.rc_context():
        plt.rcdefaults()
        ax = plots.show_attention(plt.figure().add_subplot(), DIGIT, WEIGHTS)
        assert plots.colour("attention") == palette.PALETTE["query"][0]
        ax.figure.canvas.draw()


def test_a_tensor_that_wants_a_gradient_can_be_drawn(ax):
    plots.show_attention(ax, DIGIT, WEIGHTS.clone().requires_grad_())


# ---- images


@both_modes
def test_a_digit_is_ink_on_paper_and_a_photograph_keeps_its_colours(ax):
    plots.show_images(ax, DIGIT[None])
    plots.show_images(ax, PHOTO[None])
    digit, photo = arrays(ax)
    np.testing.assert_allclose(digit[0, 0], to_rgb(plots.colour("paper")))
    np.testing.assert_allclose(digit[10, 13], to_rgb(plots.colour("ink")))
    np.testing.assert_allclose(photo, PHOTO.permute(1, 2, 0), rtol=1e-6)


def test_bytes_and_fractions_give_the_same_picture():
    as_bytes = (PHOTO * 255).round().to(torch.uint8)
    np.testing.assert_array_equal(plots.pixels(as_bytes), plots.pixels(as_bytes / 255))


def test_labels_stand_under_their_images_in_reading_order(ax):
    plots.show_images(ax, DIGIT.expand(5, 1, 28, 28), labels=range(5), columns=2)
    places = [text.xy for text in ax.texts]
    assert words(ax) == ["0", "1", "2", "3", "4"]
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert len({x for x, _ in places}) == 2


def test_patches_are_numbered_from_one_and_hold_the_pixels_of_the_image(ax):
    plots.show_patches(ax, PHOTO, 8)
    assert words(ax) == [str(n) for n in range(1, 25)]
    (cut,) = arrays(ax)
    seen = cut[cut[..., 3] == 1][:, :3]  # the gaps are clear
    times = len(seen) / (32 * 48)
    np.testing.assert_allclose(seen.sum(0), times * PHOTO.sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: plots.show_patches(ax, PHOTO, 5), "5 x 5 .* 32 x 48"),
        (lambda ax: plots.show_patches(ax, PHOTO[:2], 8), r"\(2, 32, 48\)"),
        (lambda ax: plots.show_patches(ax, PHOTO - 1, 8), "-1 .*normalisation"),
        (lambda ax: plots.show_images(ax, PHOTO[None], ["a", "b"]), "2 for 1"),
        (lambda ax: plots.show_images(ax, PHOTO[None][:0]), "0 for 0"),
        (lambda ax: plots.show_attention(ax, DIGIT, torch.ones(6, 6)), "6 x 6 .* 28 x 28"),
        (lambda ax: plots.show_attention(ax, PHOTO, torch.ones(4, 4)), "4 x 4 .* 32 x 48"),
        (lambda ax: plots.show_confusion(ax, torch.eye(3).long(), "ab"), r"2 .* \(3, 3\)"),
        (lambda ax: plots.show_matrix(ax, torch.ones(2, 3), "ab", "ab"), r"2 .* \(2, 3\)"),
        (lambda ax: plots.show_curves(ax, {"empty": []}), "empty"),
        (lambda ax: plots.colour("querry"), "'querry'.*'query'"),
        (lambda ax: plots.paper("dim"), "'dim'"),
        (lambda ax: model_map(ax, "atention"), "'atention'.*'attention'"),
    ],
)
def test_what_does_not_fit_is_named(ax, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(ax)


# ---- attention and other numbers


@pytest.mark.parametrize("image", [DIGIT, PHOTO])
def test_weights_are_shown_unchanged_from_zero_to_the_scale(ax, image):
    weights = torch.rand(7, 7) if image is DIGIT else torch.rand(2, 3)
    plots.show_attention(ax, image, weights, scale=0.25)
    np.testing.assert_array_equal(arrays(ax)[0], weights)
    assert (ax.images[0].norm.vmin, ax.images[0].norm.vmax) == (0, 0.25)
    assert ax.images[0].get_alpha() is None  # through a weight, nothing shines


def test_an_image_of_one_grey_has_no_outline(ax):
    plots.show_attention(ax, torch.full((1, 28, 28), 0.5), WEIGHTS)
    assert not ax.collections


def test_the_mark_on_the_bar_is_the_even_share(ax):
    plots.show_attention(ax, DIGIT, WEIGHTS)
    (side,) = ax.child_axes
    assert side.lines[-1].get_ydata()[0] == 1 / 49
    assert "2.0%" in side.get_xlabel()


def test_all_heads_share_one_scale_and_one_bar():
    maps = torch.rand(2, 3, 7, 7)
    axes = plt.figure().subplots(2, 3)
    assert plots.show_attention_grid(axes, DIGIT, maps) is axes
    assert {ax.images[0].norm.vmax for ax in axes.flat} == {float(maps.max())}
    assert [len(ax.child_axes) for ax in axes.flat] == [0, 0, 0, 0, 0, 1]
    for ax, weights in zip(axes.flat, maps.flatten(0, 1), strict=True):
        np.testing.assert_array_equal(arrays(ax)[0], weights)


def test_a_grid_of_axes_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 2\)"):
        plots.show_attention_grid(plt.figure().subplots(3, 2), DIGIT, torch.rand(2, 3, 7, 7))


def test_each_panel_of_positions_is_one_patch_and_zero_is_the_page(ax):
    similarity = torch.rand(2, 3, 2, 3) - 0.7
    plots.show_positions(ax, similarity)
    (panels,) = arrays(ax)
    np.testing.assert_array_equal(panels[3:5, 8:11], similarity[1, 2])  # a gap of one between
    norm = ax.images[0].norm
    assert norm.vmin == -norm.vmax == -similarity.abs().max()
    middle = ax.images[0].cmap(norm(0.0))[:3]
    np.testing.assert_allclose(middle, to_rgb(plots.colour("paper")), atol=0.02)


def test_filters_lie_apart_on_one_scale_in_blue_and_rust_or_in_their_colours(ax):
    filters = torch.tensor([[1.0, 0], [0, -0.5]]).view(2, 1, 1, 2).repeat(1, 1, 2, 1)
    inside.show_filters(ax, filters, columns=2)
    colour = torch.tensor([[1.0, 0, -1]]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    inside.show_filters(ax, colour, columns=1)
    blue, grey = arrays(ax)
    assert blue.shape == (8, 18, 3)
    ends = plots.amounts(signed=True)([1.0, 0.5, 0.5, 0.25])[:, :3]
    np.testing.assert_allclose(blue[0, [0, 7, 13, 17]], ends, atol=0.01)
    np.testing.assert_allclose(grey[0, 0], [1, 0.5, 0])


def test_dots_of_heads_stand_beside_the_range_of_their_controls(ax):
    inside.show_by_block(ax, torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.0, 5], [1, 2]]))
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1, 3], [2, 4]]
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [(0, 5), (1, 1)]


def test_confusion_writes_what_is_not_zero_and_colours_errors_only(ax):
    plots.show_confusion(ax, torch.tensor([[980, 0, 2], [0, 7, 0], [1, 0, 30]]), "abc")
    assert words(ax) == ["980", "2", "7", "1", "30"]
    (cells,) = arrays(ax)
    np.testing.assert_allclose(cells[0, 0], cells[2, 2])
    np.testing.assert_allclose(cells[0, 2], plots.amounts()(1.0)[:3])


def test_names_of_classes_do_not_touch():
    ax = plt.figure(figsize=(4, 4)).add_subplot()
    plots.show_confusion(ax, torch.eye(10).long(), ["automobile", "cat"] * 5)
    ax.figure.canvas.draw()
    labels = ax.get_xticklabels()
    assert {label.get_rotation() for label in labels} == {45}
    assert labels[0].get_text() == "automobile"


def test_a_matrix_is_signed_only_where_a_number_is_below_zero(ax):
    plots.show_matrix(ax, torch.tensor([[0.25, -0.5]]), ["q"], ["k", "v"])
    plots.show_matrix(ax, torch.tensor([[0.25, 0.5]]), ["q"], ["k", "v"], numbers=False)
    assert [image.norm.vmin for image in ax.images] == [-0.5, 0]
    assert words(ax) == ["0.25", "\u22120.50"]


def test_curves_start_at_epoch_one_and_their_names_do_not_touch(ax):
    curves = {"training": [2, 1, 0.5], "validation": [2, 1.1, 0.5], "other": [3.0, float("nan")]}
    plots.show_curves(ax, curves, percent=True)
    for line, values in zip(ax.lines, curves.values(), strict=False):
        np.testing.assert_array_equal(line.get_xdata(), range(1, len(values) + 1))
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert len(words(ax)) == 3
    assert crowded(extents(ax.figure)) == []


# ---- colours


def linear(colours):
    c = np.array([to_rgb(colour) for colour in colours])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    low, high = sorted(linear([a, b]) @ (0.2126, 0.7152, 0.0722))
    return (high + 0.05) / (low + 0.05)


@both_modes
def test_pieces_reach_3_and_words_4_5_to_1():
    page = plots.colour("paper")
    assert all(contrast(plots.colour(name), page) >= 3 for name in PIECES)
    assert all(contrast(plots.colour(name), page) >= 4.5 for name in ("ink", "quiet"))
    assert contrast(plots.colour("quiet"), plots.tint("quiet", 0.12)) >= 4.5
    assert all(contrast(plots.colour("ink"), plots.tint(name)) >= 4.5 for name in PIECES)
    solid = [plots.colour(name) for name in PIECES] + [*plots.amounts()(np.linspace(0, 1, 33))]
    assert all(contrast(palette.ink_on(fill), fill) >= 4.5 for fill in solid)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
MACHADO = {
    "all colours": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@both_modes
@pytest.mark.parametrize("eyes", MACHADO)
def test_query_key_and_value_differ_for_colour_blind_readers_too(eyes):
    seen = linear(map(plots.colour, ("query", "key", "value"))) @ np.array(MACHADO[eyes]).T
    lab = oklab(seen.clip(0, 1))
    assert min(np.linalg.norm(a - b) for a, b in combinations(lab, 2)) > 0.1  # 0.02 is just seen


def oklab(c):
    """Björn Ottosson's uniform colours, 2020: distances are differences as seen."""
    lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(c @ np.array(lms).T) @ np.array(lab).T


@both_modes
def test_amounts_only_get_stronger_and_both_ends_alike(mode):
    steps = linear(plots.amounts()(np.linspace(0, 1, 64))) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(steps) < 0).all() if mode == "light" else (np.diff(steps) > 0).all()
    ends = plots.amounts(signed=True)([np.linspace(0.45, 0, 9), np.linspace(0.55, 1, 9)])
    below, above = oklab(linear(ends.reshape(18, 4)))[:, 0].reshape(2, 9)
    np.testing.assert_allclose(below, above, atol=0.07)


# ---- figures for the pages

TOKENS, THREE = torch.eye(3, 4), torch.full((3, 3), 0.25)
ROLES = torch.tensor(
    [[[2, 0], [0, 2], [1, 1]], [[0, 2], [2, 0], [0, 0]], [[1, 0], [0, 1], [1, 1.0]]]
)
STEPS = [("patches", "patches", "49×16", 0), ("attention", "6 × attention", "50×64", 99_840)]
DIAGRAMS = {
    "one_head": lambda: diagrams.one_head(TOKENS, *ROLES),
    "block": lambda: diagrams.block(torch.rand(6, 3) + 5, torch.rand(6, 5) + 5),
    "patch_to_token": lambda: diagrams.patch_to_token(torch.rand(4, 4), torch.randn(64, 16)),
    "class_token_path": diagrams.class_token_path,
    "adding_positions": lambda: diagrams.adding_positions(torch.eye(3), THREE),
    "model_steps": lambda: diagrams.model_steps(STEPS),
}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_words_of_a_diagram_lie_apart_and_on_the_page_of_a_desk_and_of_a_phone(
    name, monkeypatch
):
    drawn = []
    monkeypatch.setattr(page, "stored", lambda figure, png: drawn.append(figure) or b"")
    DIAGRAMS[name]()
    assert [figure.get_figwidth() for figure in drawn] == [6.6, 6.6, 3.58, 3.58]
    for figure in drawn:
        placed = extents(figure)
        assert crowded(placed) == []
        assert cut_off(placed, figure.bbox) == []


def test_one_head_shows_the_numbers_of_its_head(monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "stored", lambda figure, png: drawn.append(figure) or b"")
    q, k, v = ROLES
    diagrams.one_head(TOKENS, q, k, v, reader=1)
    shares = torch.nn.functional.softmax(torch.tensor([4.0, 0, 0]) / 2**0.5, dim=0)
    said = words(drawn[0].axes[0])
    assert {f"{share:.1%}" for share in shares} <= set(said)
    assert {"0.95", "0.11"} <= set(said)  # the answer, as chapter 05 prints it


def test_a_figure_for_the_page_has_a_picture_for_each_mode_and_width():
    figure = page.for_page(
        lambda figure, stacked: figure.text(0.5, 0.5, str(stacked)), (2, 1), (1, 2)
    )
    bundle, metadata = figure._repr_mimebundle_()
    assert set(bundle) == {"image/png", page.MIME, "text/plain"}
    assert set(bundle[page.MIME]) == {"wide-dark", "phone-light", "phone-dark"}
    assert metadata == {"image/png": {"width": 200}}  # CSS pixels
    opened = {name: Image.open(io.BytesIO(data)) for name, data in figure.pictures.items()}
    assert opened["wide-light"].format == "PNG"
    assert opened["phone-dark"].size == (120, 240)
    corners = {name: seen.convert("RGB").getpixel((0, 0)) for name, seen in opened.items()}
    light, dark = (255, 255, 255), (18, 18, 18)
    assert corners == {name: dark if "dark" in name else light for name in corners}


def test_few_colours_keep_those_of_small_parts_and_of_amounts():
    some = torch.rand(4, 6)

    def draw(figure, stacked):
        left, right = figure.subplots(1, 2)
        plots.show_attention(left, DIGIT, WEIGHTS)
        left.add_patch(plt.Rectangle((4, 4), 4, 4, fill=False, ec=palette.colour("value"), lw=2))
        plots.show_attention(right, PHOTO, some, bar=False)

    figure, full = plt.figure(figsize=(6.6, 2.4), layout="constrained"), io.BytesIO()
    draw(figure, False)
    figure.savefig(full, dpi=160)
    pictures = page.for_page(draw, (6.6, 2.4), (3.58, 1.6)).pictures
    few = Image.open(io.BytesIO(pictures["wide-light"]))
    colours = few.convert("RGB").getcolors()
    assert len(colours) <= 48
    off = np.abs(np.asarray(few.convert("RGB"), int) - np.asarray(Image.open(full).convert("RGB")))
    assert off.mean() < 8  # of 255; the photograph is noise, the worst there is
    left = off[:, : off.shape[1] // 2]
    assert left.mean() < 2
    assert left.max() < 60  # a thin line of a colour that is nowhere else
    for name, data in pictures.items():
        _, commonest = max(Image.open(io.BytesIO(data)).convert("RGB").getcolors())
        assert commonest == ((18, 18, 18) if "dark" in name else (255, 255, 255))


def test_a_photograph_lies_on_its_map_only_where_a_patch_has_room():
    for side, drawn in ((3, 2), (0.3, 1)):
        ax = plt.figure(figsize=(side, side)).add_axes((0, 0, 1, 1))
        plots.show_attention(ax, PHOTO, torch.rand(4, 6), bar=False)
        assert len(ax.images) == drawn


def panels(draw):
    """The map of each panel that a whole picture has, and its scale."""
    figure = plt.figure(figsize=(9, 9), layout="constrained")
    draw(figure)
    shown = [image for ax in figure.axes for image in ax.images if image.get_array().ndim == 2]
    maps = [torch.tensor(image.get_array()) for image in shown if image.get_array().shape == (7, 7)]
    return maps, [image.get_clim() for image in shown if image.get_array().shape == (7, 7)]


@pytest.mark.parametrize("B", [1, 3])
def test_the_sheet_of_maps_has_rollout_and_of_one_image_every_head_on_one_scale(monkeypatch, B):
    drawn = []
    monkeypatch.setattr(sheets, "content", lambda draw, *rest: drawn.append(draw) or b"")
    maps, rollout = torch.rand(B, 2, 3, 7, 7), torch.rand(B, 7, 7) / 2
    sheets.maps_picture(torch.rand(B, 1, 28, 28), maps, rollout)
    shown, scales = panels(drawn[0])
    both = torch.stack([maps[:, -1].mean(dim=1), rollout], dim=1)
    expected = [both.flatten(0, 1)] + ([maps[0].flatten(0, 1)] if B == 1 else [])
    torch.testing.assert_close(torch.stack(shown), torch.cat(expected))
    tops = [x.max().item() for x in expected for _ in x]
    np.testing.assert_allclose(scales, [(0, top) for top in tops], rtol=1e-6)


# ---- the map of the model


@pytest.mark.parametrize("active", [None, *LIT])
@pytest.mark.parametrize("stacked", [False, True])
def test_the_map_shows_the_shipped_model_and_its_words_lie_inside_and_apart(active, stacked):
    figure = plt.figure(figsize=inches(active, stacked))
    ax = model_map(figure.add_axes((0, 0, 1, 1)), active, stacked)
    text = " ".join(words(ax))
    for shape in ("1×28×28", "49×16", "16→64", "50×64", "6 times", "4 heads", "64→128", "64→10"):
        assert shape in text
    placed = extents(figure)
    assert crowded(placed) == []
    assert misplaced(placed, ax) == []
    assert cut_off(placed, figure.bbox) == []
    assert min(t.get_fontsize() for t in ax.texts) / 72 * 100 * 700 / 752 >= 10.9  # CSS pixels


def test_each_chapter_lights_its_own_piece():
    lit = {}
    for active in ("patching", "projection", "positions", "attention", "encoder", "head"):
        ax = model_map(plt.figure().add_subplot(), active)
        lit[active] = {t.get_text() for t in ax.texts if t.get_fontweight() == "bold"}
    assert "patches" in lit["patching"]
    assert "positions" in lit["positions"]
    assert lit["attention"] == {"attention", "4 heads"} < lit["encoder"]
    assert not lit["projection"] & lit["head"]


@both_modes
def test_a_map_is_stored_alike_twice_and_has_the_page_of_its_mode(tmp_path, mode):
    for name in ("one.png", "two.png"):
        draw_map("head", tmp_path / name, mode, stacked=True)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    picture = Image.open(tmp_path / "one.png").convert("RGB")
    assert picture.size == (716, 912)  # twice the CSS pixels
    assert picture.getpixel((1, 1)) == tuple(round(255 * c) for c in to_rgb(plots.colour("paper")))


@both_modes
def test_the_map_in_a_notebook_is_light_and_left_to_the_cell(mode):
    figure = where_we_are("attention")
    assert figure.get_facecolor()[:3] == (1, 1, 1)
    assert plt.get_fignums() == []


def test_the_maps_svg_has_both_layouts_every_word_and_a_link_for_each_page():
    pages = {name: f"{name}.html" for name in ("01_patching", "07_head")}
    svg = svg_map("encoder", "The <whole> model", pages)
    assert re.findall('href="([^"]*)"', svg) == 2 * list(pages.values())
    assert svg.count('aria-label="The &lt;whole&gt; model"') == svg.count("<svg") == 2
    ax = model_map(plt.figure(figsize=inches()).add_axes((0, 0, 1, 1)), "encoder")
    for word in words(ax):
        assert f">{word}</text>" in svg
    used = set(re.findall(r"var\((--m\d+)\)", svg))
    assert used == set(re.findall(r"(--m\d+):#", svg))
    assert len(svg) < 80_000
