"""The built site needs no script for its formulas, and knows its address from where it is built."""

import json
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from tools import check_pages
from tools.sync_book import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import styles
import website


def formulas():
    """Every formula of the book, with how it is shown."""
    for path in sorted([*ROOT.glob("book/*.ipynb"), *ROOT.glob("book/*.md")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        text = re.sub(r"`[^`]*`", "", text)
        yield from ((found, "block") for found in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL))
        text = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
        yield from ((found, "inline") for found in re.findall(r"(?<!\\)\$([^$\n]+?)\$", text))


def words(made):
    """What a formula shows."""
    return "".join(ElementTree.fromstring(made).itertext())


def test_every_formula_of_the_book_becomes_mathml_that_the_font_can_show():
    font = TTFont(ROOT / "book" / "_static" / "math.woff2").getBestCmap()
    found = dict.fromkeys(formulas())
    assert len(found) > 200
    for latex, display in found:
        shown = words(website.mathml(latex, display))
        assert not re.search(r"[\\&]", shown), latex
        # a single letter is shown in italics, which are in the font too
        assert {c for c in shown if ord(c) not in font and not c.isspace()} == set(), latex


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\operatorname{softmax}(q k^\top / \sqrt{d})", "softmax(qk⊤/d)"),
        (r"\begin{aligned} a &= b && (1)\\ c &= d \end{aligned}", "a=b(1)c=d"),
        (r"\arg\min_W \lVert X \rVert", "argminW‖X‖"),
        ("z'_\\ell", "zℓ′"),
    ],
)
def test_a_formula_reads_as_its_latex_does(latex, shown):
    assert re.sub(r"\s", "", words(website.mathml(latex, "block"))) == shown


def test_the_font_has_one_width_of_roots_and_every_root_of_the_book_is_low():
    table = TTFont(ROOT / "book" / "_static" / "math.woff2")["MATH"].table.MathVariants
    root = table.VertGlyphConstruction[table.VertGlyphCoverage.glyphs.index("radical")]
    assert root.VariantCount == 1
    assert root.GlyphAssembly is None
    roots = [latex.split(r"\sqrt", 1)[1] for latex, _ in formulas() if r"\sqrt" in latex]
    assert roots
    assert not [latex for latex in roots if latex.startswith((r"{\frac", r"\frac", r"{\sum"))]


def test_no_line_starts_with_what_ends_a_formula():
    short, wide = website.mathml("P", "inline"), website.mathml("D", "inline")
    wide = f'<span class="math-wide">{wide}</span>'
    text = website.MATH_END.sub(r"[\1\2]", f"a {short}, b {wide}). {short} c")
    assert text == f"a [{short},] b [{wide}).] {short} c"


def test_a_chapter_of_a_fork_leads_to_the_fork():
    links = dict(website.links("book/05_attention_heads", "someone/their-fork"))
    colab = "https://colab.research.google.com/github/someone/their-fork/blob/colab/book/"
    assert links["Open in Colab"] == colab + "05_attention_heads.ipynb"
    binder = "https://mybinder.org/v2/gh/someone/their-fork/main?labpath=book%2F05_attention_heads"
    assert links["Open in Binder"] == binder + ".ipynb"
    source = "https://github.com/someone/their-fork/blob/main/book/05_attention_heads.ipynb"
    assert links["View source"] == source
    assert "title=In+book/05_attention_heads.ipynb" in links["Report a mistake"]


def test_without_an_address_no_link_leaves_the_book():
    links = website.links("book/05_attention_heads", website.PLACEHOLDER)
    assert links
    assert all(to.startswith("../_sources/") for _, to in links)


@pytest.mark.parametrize(
    ("cell", "folded"),
    [
        ("import os\nfrom torch import nn", True),
        ("import os\nimport torch\ntorch.set_printoptions(precision=3)", True),
        ("import torch\ntorch.manual_seed(0)\nprint(1)", False),
        ("x = 1", False),
        ("import os\n%pip list", False),
    ],
)
def test_a_cell_of_imports_is_folded(cell, folded):
    assert website.only_imports(cell, {"cell_type": "code", "outputs": []}) == folded


def test_a_picture_waits_in_a_place_of_its_shape(tmp_path):
    Image.new("L", (640, 200)).save(tmp_path / "a.png")
    found = website.IMAGE.search('<p><img alt="a" src="a.png" style="width: 320px"></p>')
    tag = website.waiting(tmp_path / "page.html", found)
    assert tag.startswith('<img loading="lazy" width="320" height="100" alt="a"')


def test_the_logo_is_loaded_at_once_in_a_place_of_its_shape(tmp_path):
    found = website.IMAGE.search(
        '<img src="/_static/logo.svg" class="logo__image only-light" alt="Home"/>'
    )
    tag = website.waiting(tmp_path / "page.html", found)
    assert tag.startswith('<img width="240" height="118" ')
    assert "lazy" not in tag


def test_a_translation_leads_to_the_book_where_it_has_no_page_of_its_own():
    text = ["see [02](../../book/02_projection.ipynb) {cite:p}`someone2021` and [here](index.md)"]
    website.leave_translation(None, "translations/es/index", text)
    assert "<a href='../../book/02_projection.html'>02</a>" in text[0]
    assert "cite" not in text[0]
    assert "[here](index.md)" in text[0]


def outline(path):
    """The levels of a page's headings, and its code, links and pictures counted."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    things = ["```", "$$", "<details>", r"\n- ", r"\n\| "]
    counts = {thing: len(re.findall(thing.replace("$", r"\$"), text)) for thing in things}
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)], counts


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("translations/*/*.[mi]*")), ids=lambda path: path.stem
)
def test_a_translation_says_what_its_original_says(path):
    assert outline(path) == outline(ROOT / "book" / path.name)


def test_a_style_sheet_keeps_what_a_page_or_a_script_has():
    known = styles.used(['<p class="a b"><script>x.className = "c"</script>'], ["add('by-script')"])
    assert known >= {"a", "b", "c", "by-script"}
    css = (
        '/*! a licence */@import "x.css";/* gone */.a>p,.lost .a{color:red}'
        "@media print{.lost{top:0}.b:not(.lost){top:1px}}@media screen{.lost{top:0}}"
        "@font-face{src:url(f)}.by-script,.a:is(.lost,.b){left:0}.bs-made-auto{left:1px}.lost{left:0}"
    )
    assert styles.smaller(css, known) == (
        '/*! a licence */@import "x.css";.a>p{color:red}@media print{.b:not(.lost){top:1px}}'
        "@font-face{src:url(f)}.by-script,.a:is(.lost,.b){left:0}.bs-made-auto{left:1px}"
    )
    assert styles.smaller('.a{content:"/*"}/**/.b{}', known) == '.a{content:"/*"}'
    assert styles.smaller("a} b", known) == "a} b"  # not understood


def test_a_page_or_a_notebook_without_an_address_is_named(tmp_path):
    code = '<span class="n">OWNER</span><span class="o">/</span><span class="n">REPO</span>'
    (tmp_path / "code.html").write_text(code, encoding="utf-8")
    (tmp_path / "a.ipynb").write_text(website.PLACEHOLDER, encoding="utf-8")
    (tmp_path / "fine.html").write_text("The OWNER of a/b", encoding="utf-8")
    assert website.without_address(tmp_path) == ["a.ipynb", "code.html"]


def test_a_dead_link_and_code_without_colours_are_found(tmp_path):
    text = '<html data-theme="auto"><a href="b.html#here">b</a><a href="c.html">c</a></html>'
    (tmp_path / "a.html").write_text(text, encoding="utf-8")
    (tmp_path / "b.html").write_text('<html data-theme="light"><p id="there"></html>', "utf-8")
    assert check_pages.dead_links(tmp_path) == [
        "a.html: code has no colours without a script",
        "a.html: dead link b.html#here",
        "a.html: dead link c.html",
    ]


def test_the_page_of_the_search_alone_gets_its_script():
    for page, scripts in (("book/index", []), ("search", ["search_sections.js"])):
        added: list[str] = []
        app = SimpleNamespace(add_js_file=added.append)
        website.describe(app, page, "", {"script_files": ["site.js"]}, None)
        assert added == scripts


def test_what_no_page_needs_is_left_out():
    context = {"script_files": ["scripts/fontawesome.js", "site.js"]}
    website.describe(None, "genindex", "", context, None)
    assert context["script_files"] == ["site.js"]


def test_a_page_and_its_translation_lead_to_each_other():
    assert website.languages("book/index") == [("Español", "../translations/es/index.html")]
    assert website.languages("translations/es/index") == [("English", "../../book/index.html")]
    assert website.languages("book/05_attention_heads") == []
