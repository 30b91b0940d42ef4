"""Look at the built book as a reader's browser does.

    python tools/check_pages.py links            every link within the book leads somewhere
    python tools/check_pages.py accessibility    axe, in light, dark and on a phone

The second needs a Chrome or Chromium on this machine and says so where there is none.
"""

import functools
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
# a machine without a person has no screen to draw on, and nothing to fetch a newer version from
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WRONG = {"resultTypes": ["violations"]}  # to describe what is right too takes axe longer
CONTRAST = WRONG | {"runOnly": ["color-contrast"]}  # the only rule about colour, and the slowest
LAYOUT = WRONG | {"rules": {"color-contrast": {"enabled": False}}}
VIEWS = {  # each with axe's runs, one after the other
    "light": ("light", 1280, (LAYOUT, CONTRAST)),
    "dark": ("dark", 1280, (CONTRAST,)),
    "phone": ("light", 390, (LAYOUT,)),
}
# contrast follows from ink, paper and letters alone: of words of code that share them, one will do
THIN = """() => {
  const paper = (place) => {
    const found = place ? getComputedStyle(place).backgroundColor : "";
    return found === "rgba(0, 0, 0, 0)" ? paper(place.parentElement) : found;
  };
  const words = [...document.querySelectorAll(".highlight span, .sig span")];
  const looks = words.map((word) => {
    const { color, fontSize, fontWeight, opacity } = getComputedStyle(word);
    return [color, paper(word), fontSize, fontWeight, opacity].join();
  });
  const seen = new Set();
  words.forEach((word, i) => {
    if (word.children.length) return;
    if (seen.has(looks[i])) word.remove();
    seen.add(looks[i]);
  });
}"""


class Page(HTMLParser):
    """The places of one page that can be linked to, and the links that it holds."""

    def __init__(self, path: Path):
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {found[name] or "" for name in ("id", "name") if name in found}
        self.links += [found[name] or "" for name in ("href", "src") if name in found]


def dead_links(root: Path) -> list[str]:
    """Every link within the pages below `root` whose file or place is not there."""
    pages = {
        path.resolve(): Page(path)
        for path in sorted(root.rglob("*.html"))
        if "_static" not in path.parts
    }
    dead = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            place = unquote(parts.fragment)
            lost = target in pages and place and place not in pages[target].places
            if lost or not target.is_file():
                dead.append(f"{path.relative_to(root.resolve())}: {link}")
    return dead


def browser() -> str | None:
    """An installed Chrome or Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or (MAC if Path(MAC).is_file() else None)


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


def violations(root: Path, executable: str) -> list[str]:
    """What axe, the page's own scripts or its width have against a page, in every view."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("book/*.html"))]
    found = []
    with sync_playwright() as play, served(root) as address:
        chrome = play.chromium.launch(executable_path=executable, args=FLAGS)
        for view, (scheme, width, runs) in VIEWS.items():
            page = chrome.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
            errors: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.on("request", functools.partial(note_foreign, address, errors))
            for name in names:
                page.goto(f"{address}/{name}", wait_until="load")
                faults = []
                if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                    faults.append(f"wider than {width} pixels")
                for options in runs:
                    if options is CONTRAST:
                        page.evaluate(THIN)
                    faults += [
                        f"axe {fault['id']} x{len(fault['nodes'])}: {fault['nodes'][0]['target']}"
                        for fault in Axe().run(page, options=options).response["violations"]
                    ]
                found += [f"{name} ({view}): {fault}" for fault in faults + errors]
                errors.clear()
            page.close()
        chrome.close()
    print(f"{len(names)} pages in {', '.join(VIEWS)}")
    return found


def note_foreign(address: str, errors: list[str], request) -> None:
    """Note a request that leaves this machine: no page needs a third party at reading time."""
    if not request.url.startswith((address, "data:", "blob:")):
        errors.append(f"asks for {request.url}")


def main(names: list[str]) -> int:
    """Run one check, and print what it found; exit code 1 if that is anything."""
    if names not in (["links"], ["accessibility"]):
        print(__doc__)
        return 2
    if not HTML.is_dir():
        print(f"no built book at {HTML}: make book")
        return 2
    if names == ["links"]:
        found = dead_links(HTML)
    elif os.environ.get("CI"):
        print("skipped: no browser is asked for in CI")
        return 0
    elif executable := browser():
        found = violations(HTML, executable)
    else:
        print(f"skipped: none of {', '.join(BROWSERS)} is installed")
        return 0
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(found)} faults")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
