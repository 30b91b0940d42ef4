"""What makes the built site light, still and easy to find.

1. Formulas become MathML while the book is built: no script, no font, nothing moves or waits.
2. Scripts, source maps and styles that no page needs are left out; the icon font keeps the icons
   in use.
3. Every page has a description, structured data and, where the address is known, its own address.
4. Every chapter starts with links: Colab, exercises, download, source, a mistake to report.
5. With an address, downloads of notebooks hold it; with VIT_TUTORIAL_RELEASE set, one is required.
"""

from __future__ import annotations

import ast
import functools
import html
import json
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from docutils import nodes
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from latex2mathml.converter import convert
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "book" / "_ext")]
import pictures  # noqa: E402
import styles  # noqa: E402
from address import PLACEHOLDER, pages, repository  # noqa: E402

UNUSED = ("fontawesome", "sphinx-thebe", "mathjax", "THEBE_JS_URL")  # in a script's name or text
# what the converter does not know, and what browsers show otherwise than TeX
LATEX = {"{aligned}": "{align*}", "\\arg\\min": "\\operatorname{arg\\,min}"}
MATHML = {
    r"<mo>([A-Za-z]{2,})</mo>": r"<mi>\1</mi>",
    r"(<mi>(?:sin|cos|tan|exp|log|ln|max|min)</mi>)(?!<mo|</mrow|</mtd|<mrow><mo)": (
        r'\1<mspace width="0.17em"/>'
    ),
    r"<mi>&#x02032;</mi>": "<mo>&#x02032;</mo>",
    r"<mo[^>]*>&#x0?2016;": '<mo stretchy="false">&#x2016;',
}
IMAGE = re.compile(r'<img [^>]*?src="([^":]+)"[^>]*>')
MATH_END = re.compile(
    r'(<span class="math-wide"><math (?:(?!</math>).)*</math></span>'
    r'|<math [^>]*display="inline">(?:(?!</math>).)*</math>)([,.;:?!)]+)', re.DOTALL)  # fmt: skip
WIDE = 36  # characters of LaTeX in a sentence
ICON_SCRIPT = re.compile(r"<script [^>]*fontawesome\.js[^>]*></script>")  # icons are a font
ICON = re.compile(r"\bfa-[\w-]+")
DESCRIPTION = 155  # characters, of which a page of results shows most
ABOUT = "Build the Vision Transformer piece by piece in PyTorch: a free book of runnable notebooks."
COURSE = {
    "@context": "https://schema.org",
    "@type": "Course",
    "name": "Vision Transformer from scratch",
    "description": ABOUT,
    "isAccessibleForFree": True,
    "inLanguage": "en",
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "provider": {"@type": "Organization", "name": "The vit-tutorial authors"},
}


def mathml(latex: str, display: str) -> str:
    """One formula as MathML."""
    for old, new in LATEX.items():
        latex = latex.replace(old, new)
    made = convert(latex.strip(), display=display)
    for pattern, new in MATHML.items():
        made = re.sub(pattern, new, made)
    return made


def inline_math(translator: Any, node: nodes.math) -> None:
    """Write a formula of a sentence."""
    made = mathml(node.astext(), "inline")
    wide = len(node.astext()) > WIDE  # on a phone it scrolls in its own box
    translator.body.append(f'<span class="math-wide">{made}</span>' if wide else made)
    raise nodes.SkipNode


def block_math(translator: Any, node: nodes.math_block) -> None:
    """Write a formula that stands alone, with its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({node["number"]})</span>')
    translator.body.append(mathml(node.astext(), "block") + "</div>\n")
    raise nodes.SkipNode


def plain(node: nodes.Node) -> str:
    """The words of a paragraph, without markup, and formulas as they were written."""
    return " ".join(node.astext().split())


def description(doctree: nodes.document | None) -> str:
    """The page's first paragraph, cut at the end of a word."""
    paragraphs = doctree.findall(nodes.paragraph) if doctree is not None else ()
    text = next((plain(p) for p in paragraphs if len(plain(p)) > 40), ABOUT)
    if len(text) > DESCRIPTION:
        text = text[:DESCRIPTION].rsplit(" ", 1)[0].rstrip(",;:.") + "…"
    return text


def links(docname: str, slug: str) -> list[tuple[str, str]]:
    """What a reader can do with a page: label and address."""
    path = f"{docname}.ipynb" if (ROOT / f"{docname}.ipynb").exists() else f"{docname}.md"
    found, up = [], "../" * docname.count("/")
    notebook = path.endswith(".ipynb")
    exercises = Path(path).parent / "exercises" / Path(path).name
    if slug != PLACEHOLDER and notebook:
        colab = f"https://colab.research.google.com/github/{slug}/blob/colab"
        found.append(("Open in Colab", f"{colab}/{path}"))
        if (ROOT / exercises).exists():
            found.append(("Exercises in Colab", f"{colab}/{exercises}"))
        binder = f"https://mybinder.org/v2/gh/{slug}/main?labpath={quote(path, safe='')}"
        found.append(("Open in Binder", binder))
    if notebook:
        found.append(("Download the notebook", f"{up}_sources/{path}"))
        if (ROOT / exercises).exists():
            found.append(("Download the exercises", f"{up}_sources/{exercises}"))
    if slug != PLACEHOLDER:
        github = f"https://github.com/{slug}"
        found.append(("View source", f"{github}/blob/main/{path}"))
        report = f"{github}/issues/new?template=mistake.yml&title=In+{path}"
        found.append(("Report a mistake", report))
    return found


def languages(docname: str) -> list[tuple[str, str]]:
    """The same page in other languages: the language's own name, and the address from here.

    A translation is a folder `translations/xx` whose `_toc.yml` starts with the name: `# Español`.
    """
    folder, name = docname.rsplit("/", 1)
    found = []
    for path in [ROOT / "book", *sorted(ROOT.glob("translations/*"))]:
        there = path.relative_to(ROOT).as_posix()
        if there != folder and any((path / f"{name}{kind}").exists() for kind in (".md", ".ipynb")):
            toc = path / "_toc.yml"
            first = toc.read_text(encoding="utf-8").splitlines()[0] if toc.exists() else "# English"
            found.append((first.strip("# "), f"{os.path.relpath(there, folder)}/{name}.html"))
    return found


def describe(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Give a page its scripts, its head and its row of links."""
    if page == "search":
        app.add_js_file("search_sections.js")
    for key in ("script_files", "css_files"):
        kept = [item for item in context.get(key, []) if not unused(item)]
        context[key] = list({(str(item), body(item)): item for item in kept}.values())
    if not page.startswith(("book/", "translations/")):
        return
    text = description(tree)
    title = html.escape(re.sub("<[^>]+>", "", context.get("title", "")))
    course = COURSE if page == "book/index" else {
        "@context": "https://schema.org", "@type": "LearningResource", "name": title,
        "description": text, "isPartOf": {"@type": "Course", "name": COURSE["name"]},
        "license": COURSE["license"],
    }  # fmt: skip
    tags = [f'<meta name="description" content="{html.escape(text)}">']
    tags += [f'<meta property="og:{key}" content="{value}">' for key, value in (
        ("type", "article"), ("title", title), ("description", html.escape(text)))]  # fmt: skip
    slug = repository()
    if slug != PLACEHOLDER:
        here = f"{pages(slug)}{page}.html"
        tags.append(f'<meta property="og:url" content="{here}">')
        image = f"{pages(slug)}_static/card.png"
        tags.append(f'<meta property="og:image" content="{image}">')
        course = {**course, "url": here}
    data = json.dumps(course).replace("</", "<\\/")
    tags.append(f'<script type="application/ld+json">{data}</script>')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)
    chapter = page.split("/")[-1][:2].isdigit()
    found = (links(page, slug) if chapter else []) + languages(page)
    if found and context.get("body"):
        row = " · ".join(f'<a href="{html.escape(to)}">{name}</a>' for name, to in found)
        nav = f'<nav class="page-links" aria-label="This chapter elsewhere">{row}</nav>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{nav}", 1)


def fold(app: Any, page: str, source: list[str]) -> None:
    """Fold the set-up cell, with the address, and a cell of imports alone: the first idea leads."""
    if not app.env.doc2path(page).endswith(".ipynb"):
        return
    notebook = json.loads(source[0].replace(PLACEHOLDER, repository()))
    for cell in notebook["cells"]:
        words, tags = "".join(cell["source"]), cell["metadata"].setdefault("tags", [])
        title = "Set-up" if "setup" in tags else "Imports" if only_imports(words, cell) else ""
        if title and "hide-cell" not in tags:
            tags.append("hide-cell")
            names = dict.fromkeys(("code_prompt_show", "code_prompt_hide"), title)
            cell["metadata"].setdefault("mystnb", {}).update(names)
    source[0] = json.dumps(notebook)


def leave_translation(app: Any, page: str, source: list[str]) -> None:
    """Let a translation's links to chapters and works that it lacks lead into the book."""
    if page.startswith("translations/"):
        text = re.sub(
            r"\[([^\[\]]+)\]\((\.\./\.\./book/\w+)\.(?:ipynb|md)\)",
            r"<a href='\2.html'>\1</a>",
            source[0],
        )
        works = "<a href='../../book/bibliography.html'>[*]</a>"
        source[0] = re.sub(r"{cite:\w}`[^`]+`", works, text)


def only_imports(words: str, cell: dict[str, Any]) -> bool:
    """Whether a code cell imports and does nothing else."""
    if cell["cell_type"] != "code" or "%" in words or cell.get("outputs"):
        return False
    lines = ast.parse(words).body
    imports = [line for line in lines if isinstance(line, ast.Import | ast.ImportFrom)]
    calls = [line for line in lines if isinstance(line, ast.Expr)]  # such as set_printoptions
    return len(imports) > len(calls) and len(imports) + len(calls) == len(lines)


def body(item: Any) -> str:
    """The text of a script that has no file."""
    return (getattr(item, "attributes", None) or {}).get("body") or ""


def unused(item: Any) -> bool:
    """Whether no page needs this script or style sheet."""
    words = f"{getattr(item, 'filename', None) or item} {body(item)}"
    return any(name in words for name in UNUSED)


def finish(app: Any, exception: Exception | None) -> None:
    """Tidy what was built: no source maps, a small icon font, the address in the downloads."""
    if exception is not None or app.builder.format != "html":
        return
    built, slug = Path(app.outdir), repository()
    for path in [*built.rglob("*.map"), *built.glob("_static/scripts/fontawesome*")]:
        path.unlink(missing_ok=True)
    smaller_icons(built)
    card(built)
    for path in built.rglob("*.html"):
        text = ICON_SCRIPT.sub("", path.read_text(encoding="utf-8"))
        # a script chooses light or dark; without one, code has no colours before either is chosen
        text = text.replace('data-theme="auto"', 'data-theme="light"', 1)
        if path.parent.name != "_static":
            text = IMAGE.sub(functools.partial(waiting, path), text)
            text = MATH_END.sub(r'<span class="math-end">\1\2</span>', text)
        path.write_text(text, encoding="utf-8")
    for path in (ROOT / "book" / "exercises").glob("*.ipynb"):
        target = built / "_sources" / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    styles.prune(built)
    if slug != PLACEHOLDER:
        for path in built.rglob("*.ipynb"):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(PLACEHOLDER, slug), encoding="utf-8")
        sitemap(built, pages(slug))
        if left := without_address(built):
            raise ExtensionError(f"{', '.join(left)}: there is still {PLACEHOLDER}")


def without_address(built: Path) -> list[str]:
    """The pages and notebooks that still hold OWNER/REPO, in a page also as coloured code."""
    return [
        path.relative_to(built).as_posix()
        for path in sorted([*built.rglob("*.html"), *built.rglob("*.ipynb")])
        if re.search(r"OWNER(?:<[^>]*>)*/", path.read_text(encoding="utf-8"))
    ]


def card(built: Path) -> None:
    """The picture that other sites show beside a link to the book, 1200 x 630 pixels."""
    sheet = Image.new("RGB", (1200, 630), "white")
    model = Image.open(ROOT / "book" / "_static" / "model_light.png").convert("RGB")
    height = round(model.height * 1120 / model.width)
    sheet.paste(model.resize((1120, height)), (40, 600 - height))
    draw, font = ImageDraw.Draw(sheet), findfont("DejaVu Sans")
    draw.text((40, 50), "Vision Transformer from scratch", "#1b1f24", ImageFont.truetype(font, 62))
    words = "A book of runnable notebooks: every piece in PyTorch, every claim proved"
    draw.text((40, 140), words, "#57606a", ImageFont.truetype(font, 28))
    sheet.quantize(64).save(built / "_static" / "card.png", optimize=True)


def waiting(page: Path, found: re.Match[str]) -> str:
    """An image that is loaded when it is near the screen, in a place of the right shape."""
    tag, source = found[0], found[1]
    picture = page.parent / source
    if "logo__image" in tag:  # at the top of every page
        logo = (ROOT / "book" / "_static" / "logo.svg").read_text(encoding="utf-8")
        width, height = re.findall(r'(?:width|height)="(\d+)"', logo)[:2]
        return tag.replace("<img ", f'<img width="{width}" height="{height}" ', 1)
    if picture.suffix == ".png" and "height=" not in tag:
        width, height = pictures.size(picture.read_bytes())
        tag = tag.replace("<img ", f'<img width="{width // 2}" height="{height // 2}" ', 1)
    return tag if "loading=" in tag else tag.replace("<img ", '<img loading="lazy" ', 1)


def smaller_icons(built: Path) -> None:
    """Keep of the icon font the icons that some page or script names."""
    texts = [*built.glob("**/*.html"), *built.glob("_static/**/*.js")]
    named = {name for path in texts for name in ICON.findall(path.read_text(encoding="utf-8"))}
    shapes = set()
    for path in built.glob("_static/**/*.css"):
        for selector, rule in re.findall(r"([^{}]+){([^{}]*)}", path.read_text(encoding="utf-8")):
            of_icons = set(ICON.findall(selector))
            if not of_icons or of_icons & named:
                shapes |= {int(code, 16) for code in re.findall(r'"\\([0-9a-f]{2,5})"', rule)}
    for path in built.glob("_static/vendor/fontawesome/webfonts/*.ttf"):
        path.unlink(missing_ok=True)
    for path in built.glob("_static/vendor/fontawesome/webfonts/*.woff2"):
        font = TTFont(path)
        job = Subsetter()
        job.populate(unicodes=shapes)
        job.subset(font)
        font.flavor = "woff2"
        font.save(path)


def sitemap(built: Path, address: str) -> None:
    """List every page of the book for search engines."""
    found = sorted(path.relative_to(built).as_posix() for path in built.glob("book/*.html"))
    rows = "".join(f"<url><loc>{address}{path}</loc></url>\n" for path in found)
    xml = f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'
    (built / "sitemap.xml").write_text(xml, encoding="utf-8")
    (built / "robots.txt").write_text(
        f"User-agent: *\nSitemap: {address}sitemap.xml\n", encoding="utf-8"
    )


def configure(app: Any, config: Any) -> None:
    """The address, from where the book is built; without one a build for release fails."""
    slug = repository()
    if slug == PLACEHOLDER and os.environ.get("VIT_TUTORIAL_RELEASE"):
        raise ExtensionError(
            "a build for release needs the repository's address: set VIT_TUTORIAL_REPOSITORY to "
            "owner/name, or build in a clone whose remote 'origin' lies on GitHub"
        )
    config.html_math_renderer = "mathml"
    toc = Path(config.external_toc_path)
    if toc.parent.parent.name == "translations":
        config.language = toc.parent.name
    config.html_baseurl = "" if slug == PLACEHOLDER else pages(slug)
    options = config.html_theme_options
    options.update({key: False for key in options if key.startswith("use_")})
    known = slug != PLACEHOLDER
    options.update(repository_url=f"https://github.com/{slug}" if known else "", launch_buttons={})
    options["use_repository_button"] = known
    config.notfound_urls_prefix = "/" + pages(slug).split("/", 3)[3] if known else "/"


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("config-inited", configure, priority=9)
    app.connect("source-read", fold)
    app.connect("source-read", leave_translation)
    app.connect("html-page-context", describe, priority=995)
    app.connect("build-finished", finish)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
