"""Print the built book as one PDF: every page in the order of the contents, answers open.

    python tools/print_book.py [FILE]      dist/vision-transformer-from-scratch.pdf by default

It needs a built book (make book) and a Chrome or Chromium.
"""

import asyncio
import io
import sys
from pathlib import Path

import yaml
from check_pages import HTML, SETTLED, browser, served

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "dist" / "vision-transformer-from-scratch.pdf"
PAPER = {
    "format": "A4",
    "margin": dict.fromkeys(("top", "bottom", "left", "right"), "16mm"),
    "print_background": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": (
        '<div style="font-size:8px;width:100%;text-align:center">'
        '<span class="title"></span> · <span class="pageNumber"></span></div>'
    ),
}
# pictures that wait until they come near the screen would be missing
LOADED = """async () => {
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
}"""

ANSWERED = "() => [...document.querySelectorAll('.vit-live')].every((live) => live.dataset.answer)"


def listed() -> list[str]:
    """The pages of the book in the order of its table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]


async def sheets(names: list[str]) -> list[bytes]:
    """Each page of the site as a PDF. Raises FileNotFoundError without a browser."""
    from playwright.async_api import async_playwright

    made = []
    async with async_playwright() as play:
        chrome = await browser(play)
        if chrome is None:
            raise FileNotFoundError("no Chrome or Chromium starts here")
        page = await chrome.new_page(color_scheme="light")
        with served(HTML) as address:
            for name in names:
                await page.goto(f"{address}/{name}.html", wait_until="load")
                await page.evaluate(SETTLED)
                await page.evaluate(LOADED)
                await page.wait_for_function(ANSWERED)
                await page.emulate_media(media="print")
                made.append(await page.pdf(**PAPER))
        await chrome.close()
    return made


def main(file: Path) -> int:
    """Print the book into `file`."""
    from pypdf import PdfWriter

    names = listed()
    lost = [name for name in names if not (HTML / f"{name}.html").is_file()]
    if lost:
        print(f"print: no built page {lost[0]}: make book", file=sys.stderr)
        return 2
    try:
        made = asyncio.run(sheets(names))
    except FileNotFoundError as error:
        print(f"print: {error}", file=sys.stderr)
        return 2
    book = PdfWriter()
    for name, sheet in zip(names, made, strict=True):
        book.append(io.BytesIO(sheet), outline_item=name.split("/")[-1])
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        book.write(stream)
    print(f"print: {len(names)} chapters and pages, {len(book.pages)} sheets, {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else FILE))
