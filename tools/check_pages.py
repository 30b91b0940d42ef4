"""Check the built book: its links, and its pages in a browser.

    python tools/check_pages.py [FOLDER of the built book]

Every link within the book leads somewhere. Then a Chrome or Chromium of this machine opens each
page once, and looks at it on phones and on a desk, in light and in dark: no error of a script, no
request to another machine, nothing missing, nothing heavy, nothing wider than the screen, nothing
that axe has against it. Where no browser starts, it says so, and passes, but not on GitHub.
"""

import asyncio
import functools
import gzip
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HTML = Path(__file__).resolve().parents[1] / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
# a machine without a person has no screen to draw on, perhaps no /dev/shm, and nothing to update
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync"]
FLAGS += ["--disable-background-networking"]
AT_ONCE = 2  # pages
WIDTHS = (320, 390, 1280)  # pixels: two phones and a desk
# What has the same tags and classes looks alike, so axe need not see all of it: most words of code
# become plain text, and contrast, the slowest rule, is measured on three words of each look.
LOOK = """(place) => {
  const look = [];
  for (let e = place; e; e = e.parentElement)
    look.push(e.localName, e.className, e.style.cssText, e.matches("tr:nth-child(odd)"));
  return look.join();
}"""
THIN = """() => {
  const seen = new Set();
  for (const word of [...document.querySelectorAll(".highlight span, .sig span")].reverse())
    if (!word.children.length && seen.has(LOOK(word))) word.replaceWith(word.textContent);
    else seen.add(LOOK(word));
  document.body.normalize();
}""".replace("LOOK", f"({LOOK})")
CONTRAST = """() => {
  const seen = {};
  const include = [...document.body.querySelectorAll("*")].filter((place) => {
    const words = [...place.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || !place.getClientRects().length) return false;
    const look = LOOK(place);
    seen[look] = (seen[look] || 0) + 1;
    return seen[look] <= 3;
  });
  return axe.run({ include }, { preload: false, runOnly: ["color-contrast"] });
}""".replace("LOOK", f"({LOOK})")
LAYOUT = """() => axe.run({
  preload: false, resultTypes: ["violations"], rules: { "color-contrast": { enabled: false } },
})"""
SETTLED = "async () => { await document.fonts.ready; }"
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
STILL = "* { transition: none !important; animation: none !important; }"
TEXT = (".html", ".css", ".js", ".svg", ".json")  # sent compressed
HEAVY = 400_000  # bytes of a first visit, compressed
HEAVY_FRONT = 250_000  # of the front page
UNSEEN = """() => [...document.querySelectorAll("figcaption")]
  .filter((words) => !words.closest("details:not([open])") && !words.getClientRects().length)
  .map((words) => words.closest("figure").id)"""
UNLIT = """async () => {
  const links = [...document.querySelectorAll("nav.page-toc a[href^='#']")];
  if (!links.length) return false;
  const link = links[Math.floor(links.length / 2)];
  const place = document.getElementById(decodeURIComponent(link.hash.slice(1)));
  place.scrollIntoView({ behavior: "instant" });
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const there = place.getBoundingClientRect().top < 150;  // a short page does not scroll so far
  const lit = link.getAttribute("aria-current");
  scrollTo({ top: 0, behavior: "instant" });
  return there && !lit;
}"""
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"


class Page(HTMLParser):
    """The places of one page that can be linked to, its links, and its colours without a script."""

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.theme = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.theme = self.theme or found.get("data-theme") or ""
        self.places |= {found[name] or "" for name in ("id", "name") if name in found}
        self.links += [found[name] or "" for name in ("href", "src") if name in found]


def dead_links(root: Path) -> list[str]:
    """Every link below `root` whose file or place is not there, and pages without colours."""
    paths = [path for path in sorted(root.rglob("*.html")) if "_static" not in path.parts]
    pages = {path: Page(path) for path in paths}
    dead = []
    for path, page in pages.items():
        if page.theme not in ("", "light"):
            dead.append(f"{path.relative_to(root)}: code has no colours without a script")
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            of_site = path.name == "404.html" and link.startswith("/")  # shown at any address
            if of_site or parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            place = unquote(parts.fragment)
            lost = target in pages and place and place not in pages[target].places
            if lost or not target.is_file():
                dead.append(f"{path.relative_to(root)}: dead link {link}")
    return dead


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of the folder, served to this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def told(result: dict, view: str) -> list[str]:
    """What axe has against a page, one line each."""
    return [
        f"axe {fault['id']} x{len(fault['nodes'])} ({view}): {fault['nodes'][0]['target']}"
        for fault in result["violations"]
    ]


def weight(root: Path, asked: set[str]) -> int:
    """The bytes over the wire of the files at these addresses."""
    total = 0
    for address in asked:
        path = root / unquote(urlsplit(address).path).lstrip("/")
        if path.is_file():
            content = path.read_bytes()
            total += len(gzip.compress(content, 6) if path.suffix in TEXT else content)
    return total


async def faults(page, address: str, root: Path) -> list[str]:
    """What is wrong with the page at `address`, in every width and in both colour schemes."""
    from axe_playwright_python.async_playwright import Axe

    found: list[str] = []
    visited: set[str] = set()
    page.set_default_timeout(120_000)  # milliseconds, for a busy machine
    home = "{0.scheme}://{0.netloc}/".format(urlsplit(address))

    def answered(response) -> None:
        if response.status >= 400:
            found.append(f"{response.status}: {response.url}")

    def asked(request) -> None:  # no page needs a third party at reading time
        visited.add(request.url)
        if not request.url.startswith((home, "data:", "blob:")):
            found.append(f"asks for {request.url}")

    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("request", asked)
    page.on("response", answered)
    await page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    await page.emulate_media(color_scheme="light")
    await page.goto(address, wait_until="load")
    await page.evaluate(SETTLED)
    most = HEAVY_FRONT if address.endswith("/index.html") else HEAVY
    if (heavy := weight(root, visited)) > most:
        found.append(f"a first visit takes {heavy // 1000} KB, more than {most // 1000}")
    await page.evaluate(Axe().axe_script)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        if await page.evaluate(TOO_WIDE):
            found.append(f"wider than {width} pixels")
    if await page.evaluate(UNLIT):
        found.append("the contents do not light the section that is read")
    await page.add_style_tag(content=STILL)
    await page.evaluate(THIN)
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        themed = "document.documentElement.dataset.theme"  # a page without one needs no waiting
        await page.wait_for_function(f"!{themed} || {themed} === '{scheme}'")
        found += told(await page.evaluate(CONTRAST), scheme)
        hidden = await page.evaluate(UNSEEN)
        found += [f"no caption is seen below {name} ({scheme})" for name in hidden]
    for width in WIDTHS[:0:-1]:
        await page.set_viewport_size({"width": width, "height": 900})
        await page.wait_for_timeout(500)  # milliseconds: the theme adapts to a new width in 300
        await page.evaluate(DRAWN)
        found += told(await page.evaluate(LAYOUT), f"{width} pixels")
    return found


def programs() -> list[str | None]:
    """What may start as a Chrome or Chromium: of this machine, or playwright's own (None)."""
    return [*filter(None, map(shutil.which, BROWSERS)), MAC, None]


async def browser(play):
    """The first Chrome or Chromium that starts, or None."""
    from playwright.async_api import Error

    for program in programs():
        try:
            return await play.chromium.launch(executable_path=program, args=FLAGS)
        except Error:  # not there, or not able to run here
            continue
    return None


async def look(root: Path) -> list[str] | None:
    """The faults of every page below `root`/book, or None without a browser."""
    from playwright.async_api import async_playwright

    places = ("book/*.html", "live/*.html", "translations/*/*.html")
    found = [path for place in places for path in sorted(root.glob(place))]
    names = [path.relative_to(root).as_posix() for path in found]
    async with async_playwright() as play:
        chrome = await browser(play)
        if chrome is None:
            return None
        visit, turn = await chrome.new_context(), asyncio.Semaphore(AT_ONCE)

        async def one(name: str, address: str) -> list[str]:
            async with turn:
                page = await visit.new_page()
                found = await faults(page, f"{address}/{name}", root)
                await page.close()
            return [f"{name}: {fault}" for fault in found]

        with served(root) as address:
            found = await asyncio.gather(*(one(name, address) for name in names))
        await chrome.close()
    print(f"pages: {len(names)} looked at, {', '.join(map(str, WIDTHS))} pixels wide, light, dark")
    return [fault for faults_of_one in found for fault in faults_of_one]


def main(root: Path) -> int:
    """Run both checks, and print what they found; exit code 1 if that is anything."""
    if not root.is_dir():
        print(f"no built book at {root}: make book")
        return 2
    found = dead_links(root)
    print(f"links: {len(found)} dead")
    seen = asyncio.run(look(root))
    if seen is None:
        print(f"pages: skipped, for none of {', '.join(BROWSERS)} starts here")
        if os.environ.get("GITHUB_ACTIONS"):  # the workflows install one
            found.append("no page was looked at")
    found += seen or []
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2]).resolve() if sys.argv[1:] else HTML))
