"""What a visit costs: bytes over the wire, largest paint and layout shift on a slow phone.

    python tools/weigh_pages.py [book/05_attention_heads ...]     every page by default

"after" are the bytes of a visit that comes from another page of the book, whose files are kept.
A phone of 390 x 844 pixels with a processor four times slower and 9 Mbit/s, 60 ms away; files are
compressed as GitHub Pages does. Times differ from machine to machine; bytes do not.
"""

import asyncio
import functools
import gzip
import http.server
import sys
import threading
from pathlib import Path

from check_pages import HTML, browser

TEXT = (".html", ".css", ".js", ".svg", ".json", ".ipynb", ".txt", ".xml")
NETWORK = {
    "offline": False,
    "latency": 60,
    "downloadThroughput": 9e6 / 8,
    "uploadThroughput": 9e6 / 8,
}
WATCH = """() => {
  window.seen = {paint: 0, shift: 0};
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) seen.paint = Math.round(entry.startTime);
  }).observe({type: "largest-contentful-paint", buffered: true});
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) seen.shift += entry.value;
  }).observe({type: "layout-shift", buffered: true});
}"""


class Compressed(http.server.SimpleHTTPRequestHandler):
    """A server that sends text compressed, and counts what it sends."""

    sent: dict[str, int] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        if path.suffix in TEXT:
            content = gzip.compress(content, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=600")
        self.end_headers()
        self.sent[self.path.split("?")[0]] = len(content)
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


async def visit(chrome, address: str, name: str) -> tuple[int, int, int, int, float]:
    """Bytes and requests of a first visit, bytes of a later one, largest paint in ms, and shift."""
    context = await chrome.new_context(
        viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True
    )
    page = await context.new_page()
    phone = await context.new_cdp_session(page)
    await phone.send("Network.enable")
    await phone.send("Network.emulateNetworkConditions", NETWORK)
    await phone.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    await page.add_init_script(f"({WATCH})()")
    Compressed.sent.clear()
    await page.goto(f"{address}/{name}.html", wait_until="load")
    await page.wait_for_timeout(1500)
    seen = await page.evaluate("() => seen")
    weight, count = sum(Compressed.sent.values()), len(Compressed.sent)
    if "-v" in sys.argv:
        for path, size in sorted(Compressed.sent.items(), key=lambda item: -item[1])[:12]:
            print(f"    {size / 1000:7.1f} KB  {path}")
    await context.close()
    context = await chrome.new_context(viewport={"width": 390, "height": 844})
    page = await context.new_page()
    for place in ("book/notation", name):
        Compressed.sent.clear()
        await page.goto(f"{address}/{place}.html", wait_until="load")
        await page.wait_for_timeout(300)
    after = sum(Compressed.sent.values())
    await context.close()
    return weight, count, after, seen["paint"], seen["shift"]


async def main(names: list[str]) -> None:
    """Print a line for each page."""
    from playwright.async_api import async_playwright

    names = names or [
        p.relative_to(HTML).with_suffix("").as_posix() for p in sorted(HTML.glob("book/*.html"))
    ]
    handler = functools.partial(Compressed, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        async with async_playwright() as play:
            chrome = await browser(play)
            print(f"{'page':34}{'KB':>7}{'files':>7}{'after':>7}{'paint s':>9}{'shift':>8}")
            for name in names:
                weight, count, after, paint, shift = await visit(
                    chrome, f"http://127.0.0.1:{server.server_port}", name
                )
                told = f"{name:34}{weight / 1000:7.0f}{count:7}{after / 1000:7.0f}"
                print(f"{told}{paint / 1000:9.2f}{shift:8.3f}", flush=True)
            await chrome.close()
        server.shutdown()


if __name__ == "__main__":
    asyncio.run(main([a for a in sys.argv[1:] if a != "-v"]))
