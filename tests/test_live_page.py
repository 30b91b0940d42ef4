"""The live page in a browser: drawn on by mouse, finger and keyboard, from a disk and by link."""

import base64
import json
import shutil
from pathlib import Path

import pytest

from tests.drawings import drawings
from tools.check_pages import BROWSERS, FLAGS, programs, served

LIVE = Path(__file__).resolve().parents[1] / "book" / "_live"
PAGE = (LIVE / "live.html").as_uri()
DRAWN = dict(drawings(10, seed=3))
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def chrome():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as play:
        for program in programs():
            try:
                browser = play.chromium.launch(executable_path=program, args=FLAGS)
            except sync_api.Error:  # not there, or not able to run here
                continue
            yield browser
            browser.close()
            return
    pytest.skip(f"none of {', '.join(BROWSERS)} starts here: the live page is not opened")


@pytest.fixture
def visit(chrome):
    """Opens the page; at the end there was no error and no request to another machine."""
    contexts, bad = [], []

    def go(address=PAGE, ready="", **how):
        context = chrome.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        home = address.split("/live.html")[0]
        page.on("pageerror", lambda error: bad.append(str(error)))
        page.on("console", lambda said: bad.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith((home, "data:"))
                else bad.append(asked.url))  # fmt: skip
        page.goto(address)
        page.wait_for_selector(ready or ".vit-live[data-ready]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not bad


def answer(page):
    """The digit that the page answers, once it has thought about the last stroke."""
    page.evaluate("() => new Promise(f => requestAnimationFrame(() => setTimeout(f, 60)))")
    return int(page.locator(".vit-live").get_attribute("data-answer"))


def points(page, stroke):
    box = page.locator(".vit-draw").bounding_box()
    return [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in stroke]


def draw(page, strokes):
    for stroke in strokes:
        first, *rest = points(page, [*stroke[::3], stroke[-1]])
        page.mouse.move(*first)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        page.mouse.up()


def test_digits_are_drawn_with_the_mouse_on_a_page_from_the_disk(visit):
    page = visit()
    for digit in (2, 7):
        page.get_by_role("button", name="Clear").click()
        draw(page, DRAWN[digit])
        assert answer(page) == digit
    page.get_by_role("button", name="Undo").click()
    assert answer(page) == -1  # this seven has one stroke
    assert "Draw a digit" in page.locator(".vit-say").inner_text()


def test_a_digit_is_drawn_with_a_finger_and_the_page_stays_still(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    before, finger = page.evaluate("scrollY"), page.context.new_cdp_session(page)
    for stroke in DRAWN[3]:
        for n, (x, y) in enumerate(points(page, stroke[::3])):
            touch = {"type": "touchMove" if n else "touchStart", "touchPoints": [{"x": x, "y": y}]}
            finger.send("Input.dispatchTouchEvent", touch)
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert answer(page) == 3
    assert page.evaluate("scrollY") == before
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_is_done_by_keyboard(visit):
    page = visit()
    page.locator(".vit-draw").focus()
    for key in [" ", *["ArrowDown"] * 14, " "]:
        page.keyboard.press(key)
    assert answer(page) == 1
    token = page.locator(".vit-strip button").first
    token.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    columns = page.evaluate("""() => [...document.querySelectorAll(".vit-strip button")].filter(
        (b, _, all) => b.offsetTop === all[0].offsetTop).length""")
    chosen = page.locator(".vit-strip [aria-pressed=true]")
    assert chosen.inner_text() == str(2 + columns)
    page.locator(".vit-heads [aria-pressed=true]").focus()
    page.keyboard.press("ArrowRight")
    assert f"Block 5, head 3: patch {2 + columns}" in page.locator(".vit-at-maps").inner_text()
    page.wait_for_timeout(1000)
    assert "The model answers 1" in page.get_by_role("status").inner_text()


def test_a_link_keeps_a_drawing_and_a_broken_one_does_no_harm(visit):
    page = visit()
    page.get_by_role("button", name="Sample digit 5").click()
    assert answer(page) == 5
    page.get_by_role("button", name="Copy link").click()
    page.wait_for_function("location.hash.length > 10")
    link = page.url
    assert answer(visit(link)) == 5
    page = visit(f"{PAGE}#d=AAAA")
    sample = answer(page)
    assert sample == 4
    for text in ("d=", "d=/////w", "d=" + "_" * 20_000, "what-you-see"):
        page.evaluate("text => { location.hash = text }", text)
        assert answer(page) == sample
    page.evaluate("text => { location.hash = text }", link.split("#")[1])
    assert answer(page) == 5


def test_the_browser_computes_what_pytorch_computed(visit):
    goldens = json.loads((LIVE / "goldens.json").read_text())
    images = [list(base64.b64decode(image)) for image in goldens["images"]]
    found = visit().evaluate(
        """images => images.map(pixels => {
        const { model } = document.querySelector(".vit-live").vit, { T } = model;
        const { logits, maps } = model.forward(pixels.map(v => v / 255));
        const rows = [];
        for (let n = 0; n < 24; n++) rows.push(...maps.slice(n * T * T, n * T * T + T));
        return [[...logits], rows];
    })""",
        images,
    )
    for (logits, rows), expected, maps in zip(
        found, goldens["logits"], goldens["class_token"], strict=True
    ):
        assert logits == pytest.approx(expected, abs=1e-5)
        assert rows == pytest.approx(
            [x for block in maps for head in block for x in head], abs=1e-5
        )


def test_without_positions_a_shuffle_changes_nothing(visit):
    page = visit()
    logits = "() => [...document.querySelector('.vit-live').vit.out.logits]"
    whole = page.evaluate(logits)
    page.get_by_role("button", name="Zero the positions").click()
    without = page.evaluate(logits)
    page.get_by_role("button", name="Shuffle the patches").click()
    assert page.evaluate(logits) == pytest.approx(without, abs=1e-9)
    page.get_by_role("button", name="Zero the positions").click()
    assert page.evaluate(logits) != pytest.approx(whole, abs=0.1)
    assert "Patches shuffled: from 4" in page.locator(".vit-at-what").inner_text()
    page.get_by_role("button", name="Restore everything").click()
    for name in ("Switch off head 3 of block 4", "Drop 24 at random"):
        page.get_by_role("button", name=name).click()
        assert page.evaluate(logits) != pytest.approx(whole, abs=1e-3)
        page.get_by_role("button", name="Restore everything").click()
    assert page.evaluate(logits) == whole


@pytest.fixture
def small_page(tmp_path):
    """The address of a page with the small widget, as the front page has it."""
    shutil.copytree(LIVE, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "live.html").read_text(encoding="utf-8")
    text = text.replace('data-mode="full"', 'data-mode="small"')
    text = text.replace('<script defer src="vit-weights.js"></script>', "")
    (tmp_path / "live.html").write_text(text, encoding="utf-8")
    with served(tmp_path) as home:
        yield f"{home}/live.html"


def test_the_front_page_shows_a_stored_answer_and_loads_the_weights_when_touched(visit, small_page):
    page = visit(small_page, ready="[data-answer='4']")
    shown = """() => {
        const { vit } = document.querySelector(".vit-live");
        return [[...vit.out.logits], [...vit.shares(0, 3, 4)]];
    }"""
    told = page.locator(".vit-at-answer").inner_text()
    stored = page.evaluate(shown)
    assert page.evaluate("() => !self.VIT_WEIGHTS")
    page.locator(".vit-at-answer").hover()
    page.wait_for_selector(".vit-live[data-ready]")
    logits, shares = page.evaluate(shown)
    assert stored[0] == pytest.approx(logits, abs=0.006)  # if not: write these into vit-live.js
    assert stored[1] == pytest.approx(shares, abs=6e-5)
    assert page.locator(".vit-at-answer").inner_text() == told


def test_what_is_drawn_while_the_weights_come_is_answered_then(visit, small_page):
    page = visit(small_page, ready="[data-answer='4']")
    waiting = []
    page.route("**/vit-weights.js", lambda route: waiting.append(route))
    page.locator(".vit-draw").focus()
    for key in [" ", *["ArrowDown"] * 14, " "]:
        page.keyboard.press(key)
    assert answer(page) == -1
    assert page.locator(".vit-say").inner_text() == "Loading the model …"
    waiting[0].continue_()
    page.wait_for_selector(".vit-live[data-ready]")
    assert answer(page) == 1
    assert "The model answers 1" in page.locator(".vit-say").inner_text()


def test_a_scribble_hears_what_softmax_cannot_say(visit):
    page = visit()
    zigzag = [[0.1 + 0.8 * (k % 2), 0.1 + 0.025 * k] for k in range(32)]
    draw(page, [zigzag])
    answer(page)
    assert "it cannot say" in page.locator(".vit-warn").inner_text()


def test_the_tour_has_six_steps_and_can_be_skipped(visit):
    page = visit(reduced_motion="reduce")
    page.get_by_role("button", name="Take the tour").click()
    for step in range(1, 7):
        assert f"{step} of 6" in page.locator(".vit-tour").inner_text()
        assert page.locator(".vit-now").count() == 1
        page.get_by_role("button", name="Next" if step < 6 else "Done").click()
    page.get_by_role("button", name="Take the tour").click()
    page.get_by_role("button", name="Skip the tour").click()
    assert page.locator(".vit-now").count() == 0


def test_below_another_address_too_and_lost_weights_are_told(visit, chrome):
    with served(LIVE.parent) as home:
        address = f"{home}/_live/live.html"
        assert answer(visit(address)) == 4
        page = chrome.new_context().new_page()
        page.route("**/vit-weights.js", lambda route: route.abort())
        page.goto(address)
        page.wait_for_selector(".vit-live[data-ready=error]")
        assert "could not be loaded" in page.locator(".vit-say").inner_text()
        page.context.close()


def test_axe_finds_nothing(visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(color_scheme="light", viewport={"width": 1280, "height": 900})
    page.get_by_role("button", name="Take the tour").click()
    page.get_by_role("button", name="Drop 24 at random").click()
    page.evaluate(axe.Axe().axe_script)
    asked = "axe.run({ preload: false })"  # preload would fetch the style, not possible on a disk
    found = page.evaluate(asked)["violations"]
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)  # milliseconds: bars change slowly
    asked = asked.replace(" }", ', runOnly: ["color-contrast"] }')
    found += page.evaluate(asked)["violations"]
    assert not [(fault["id"], fault["nodes"][0]["target"]) for fault in found]
