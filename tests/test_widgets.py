"""The widgets of the chapters in a browser: by mouse, touch and keyboard, also in the dark."""

import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.test_live_page import chrome  # noqa: F401

EXTENSION = Path(__file__).resolve().parents[1] / "book" / "_ext"
THEME = """
html { --pst-color-link: #0645ad; --pst-color-text-base: #1b1f24; --pst-color-text-muted: #626a74;
       --pst-color-background: #fff; background: var(--pst-color-background);
       color: var(--pst-color-text-base); }
html[data-theme=dark] { --pst-color-link: #7db2ff; --pst-color-text-base: #e6e9ec;
       --pst-color-text-muted: #9aa3ad; --pst-color-background: #121212; }
"""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
NAMES = ("attention", "positions", "patches")
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a page for each widget, and with all that the book gives it."""
    pytest.importorskip("sphinx", reason="the extra 'book' is not installed")
    sys.path.insert(0, str(EXTENSION))
    import widgets

    sys.path.remove(str(EXTENSION))
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(widgets.STATIC, folder / "_static")
    for name in NAMES:
        data = f"VIT_DATA = {json.dumps(widgets.MAKE[name]())};\n"
        (folder / "_static" / f"vit_{name}.js").write_text(data, encoding="utf-8")
        (folder / f"{name}.html").write_text(
            f"<!DOCTYPE html><html lang=en><title>{name}</title><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width'>"
            f"<link rel=stylesheet href=_static/vit_widgets.css><style>{THEME}</style>"
            f"<main><h1>{name}</h1>{widgets.place(name, '_static/')}</main>"
            "<script src=_static/vit_widgets.js defer></script>",
            encoding="utf-8",
        )
    return folder


@pytest.fixture
def visit(chrome, site):  # noqa: F811
    """Opens a widget's page, and asks for the widget unless told not to; no error comes up."""
    contexts, bad = [], []

    def go(name, ask=True, **how):
        contexts.append(chrome.new_context(**how))
        page = contexts[-1].new_page()
        page.asked = []
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.on("request", lambda request: page.asked.append(Path(request.url).name))
        page.goto((site / f"{name}.html").as_uri())
        if ask:
            page.locator(".vit-ask").click()
            page.wait_for_selector(".vit-said:not(:empty)")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not bad


def said(page):
    return page.locator(".vit-said").inner_text()


def choose(page, name, option):
    page.locator("label", has_text=name).locator("select").select_option(option)


def cell(page, row, column):
    return page.locator(".vit-grid[tabindex] .vit-cell").nth(7 * (row - 1) + column - 1)


@pytest.mark.parametrize("name", NAMES)
def test_data_come_when_asked_for_and_are_small(visit, site, name):
    page = visit(name, ask=False)
    assert f"vit_{name}.js" not in page.asked
    page.locator(".vit-ask").click()
    page.wait_for_selector(".vit-said:not(:empty)")
    assert f"vit_{name}.js" in page.asked
    assert len(gzip.compress((site / "_static" / f"vit_{name}.js").read_bytes())) <= 300_000


@pytest.mark.parametrize("name", NAMES)
def test_without_scripts_nothing_is_offered(visit, name):
    page = visit(name, ask=False, java_script_enabled=False)
    assert page.locator(".vit-ask").count() == 1
    assert not page.locator(".vit-ask").is_visible()


@pytest.mark.parametrize("name", ["attention", "positions"])
def test_the_patch_under_the_mouse_the_finger_or_the_arrows_is_chosen(visit, name):
    page, phone = visit(name), visit(name, **PHONE)
    assert ("patch 10 (row 2, column 3)" if name == "attention" else "row 4, column 4") in said(
        page
    )
    cell(page, 2, 6).hover()
    assert "row 2, column 6" in said(page)
    page.locator(".vit-grid[tabindex]").focus()
    page.keyboard.press("ArrowRight")
    assert "row 2, column 7" in said(page)
    page.keyboard.press("ArrowRight")  # the edge
    page.keyboard.press("ArrowDown")
    assert "row 3, column 7" in said(page)
    cell(phone, 6, 2).tap()
    assert "row 6, column 2" in said(phone)


def test_the_explorer_tells_what_the_model_reads(visit):
    import widgets

    page = visit("attention")
    choose(page, "Digit", str(widgets.attention()["digits"][1]))
    choose(page, "Block", "3")
    choose(page, "Head", "4")
    page.locator(".vit-grid[tabindex]").focus()
    page.keyboard.press("Home")
    model, _, images = widgets.model_and_digits()
    row = model.attention_maps(images)[1, 2, 3, 0]
    most = int(row.argmax())
    name = f"patch {most} (row {(most - 1) // 7 + 1}" if most else "the class token"
    found = said(page)
    assert f"Block 3, head 4: the class token reads most from {name}" in found
    share = float(re.search(r", ([\d.]+) %", found)[1]) / 100
    assert share == pytest.approx(row[most].item(), abs=0.01)


def test_the_two_kinds_of_positions_can_be_compared(visit):
    page = visit("positions")
    learned = said(page)
    choose(page, "Positions", "sine, cosine")
    assert said(page) != learned
    assert any(f"is most like that of patch {n} " in said(page) for n in (18, 24, 26, 32))


def test_the_slider_cuts_the_digit(visit):
    page = visit("patches")
    assert "49 patches of 16 numbers" in said(page)
    slider = page.get_by_label("Patch side")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert "16 patches of 49 numbers" in said(page)
    assert page.locator(".vit-cell").count() == 16
    assert slider.get_attribute("aria-valuetext") == "7 by 7 pixels"
    phone = visit("patches", **PHONE)
    phone.get_by_label("Patch side").tap(position={"x": 2, "y": 8})
    assert "784 patches of 1 number each" in said(phone)


@pytest.mark.parametrize("name", NAMES)
def test_a_phone_has_room_and_axe_finds_nothing(visit, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(name, **PHONE, reduced_motion="reduce")
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = axe.Axe().run(page).response["violations"]
        assert not [fault["id"] for fault in found], theme
    cells = page.locator(".vit-grid[tabindex] .vit-cell").all()  # the slider is for patches
    assert len(cells) == (0 if name == "patches" else 49)
    assert all(cell.bounding_box()["width"] >= 24 for cell in cells)  # room for a finger
