"""The reference pages: the glossary leads to paragraphs, and the questions page's code runs."""

import re
import sys

import nbformat
import pytest
import torch
from docutils.core import publish_doctree
from docutils.nodes import reference

from tools.sync_book import ROOT
from vit_tutorial import VisionTransformer
from vit_tutorial.weights.layouts import read_checkpoint

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import mentions
import terms

timm = pytest.importorskip("timm", reason="in the extra `compare`")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")


def timm_model(**more):
    torch.manual_seed(0)
    return timm.models.VisionTransformer(32, 8, embed_dim=64, num_heads=4, depth=2, **more).eval()


def test_every_chapter_that_the_glossary_names_uses_the_term():
    chapters = {chapter for _, _, chapter in terms.ways(GLOSSARY)}
    assert len(chapters) > 8
    for chapter in chapters:
        notebook = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
        assert terms.insert(notebook, chapter, GLOSSARY) == [], chapter


def test_a_term_leads_to_the_paragraph_that_sets_it_in_italics():
    text = (
        "# Keys\n\nA key is used.\n\n<details>\n\nA *key* folded.\n\n</details>\n\nThis is a *key*."
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    glossary = "```{glossary}\nkey\n  What is offered ([chapter 05](05_x.ipynb)).\n```"
    assert terms.insert(notebook, "05_x", glossary) == []
    assert "\n\n(term-key-05)=\nThis is a *key*." in notebook.cells[0].source
    assert terms.insert(notebook, "05_x", glossary.replace("key", "lock")) == ["lock"]


def test_a_first_mention_leads_to_the_glossary_or_the_reference():
    page = """
The class token
===============

**Class
tokens** read; a class token, `a token`_ and ``patchify(x)`` are there once, so is an ``unknown``,
and ``patchify`` again, a ``load``. A token, tokenized.

.. _a token: elsewhere.html

.. raw:: html

   <details>

Some softmax is folded.

.. raw:: html

   </details>

The MLP, a Mlp, the softmax, the head and a value.
"""
    named = ("class token", "token", "softmax", "MLP", "key", "head (of classification)")
    found = {("term", name): f"book/glossary.html#{name}" for name in named}
    names = {name: f"book/api.html#{name}" for name in ("patchify", "patches.patchify")}
    tree = publish_doctree(page)
    mentions.lead(tree, "../", mentions.terms_of(GLOSSARY, "01", found), names)
    links = [(node.astext().replace("\n", " "), node["refuri"]) for node in tree.findall(reference)]
    assert links == [
        ("Class tokens", "../book/glossary.html#class token"),
        ("a token", "elsewhere.html"),
        ("patchify(x)", "../book/api.html#patchify"),
        ("token", "../book/glossary.html#token"),
        ("MLP", "../book/glossary.html#MLP"),
        ("softmax", "../book/glossary.html#softmax"),
    ]
    assert tree.astext() == publish_doctree(page).astext()  # not a word has changed


def test_a_word_of_several_meanings_is_a_link_only_where_its_entry_leads():
    for chapter, links in (("05", ["value"]), ("06", [])):
        tree = publish_doctree("The value counts.")
        terms = mentions.terms_of(GLOSSARY, chapter, {("term", "key"): "book/glossary.html#key"})
        mentions.lead(tree, "../", terms, {})
        assert [node.astext() for node in tree.findall(reference)] == links


def test_a_chapter_knows_the_names_that_it_imports_or_defines():
    first = (
        "%pip list\nfrom vit_tutorial import load_pretrained\nfrom vit_tutorial.data import load"
    )
    sources = [
        first,
        "def patchify(): ...",
        "if True:\n    %pip list\nfrom torch import batch_size",
    ]
    cells = [dict(cell_type="code", metadata={}, source=[text]) for text in sources]
    cells[1]["metadata"] = {"tags": ["source:vit_tutorial.patches.patchify"]}
    there = ["data.load", "files.load", "weights.checkpoint.load_pretrained", "patches.patchify",
             "lab.recipes.batch_size"]  # fmt: skip
    found = {("py", f"vit_tutorial.{name}"): name for name in there}
    names = mentions.names_of(cells, found)
    assert {name: to for name, to in names.items() if "." not in name} == {
        "load": "data.load",
        "load_pretrained": "weights.checkpoint.load_pretrained",
        "patchify": "patches.patchify",
    }
    assert names["files.load"] == "files.load"


def test_attention_maps_of_a_timm_model_are_those_of_ours():
    page = (ROOT / "book" / "questions.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", page, flags=re.S)
    names: dict = {}
    exec(code, names)
    theirs = timm_model()
    config, state = read_checkpoint(theirs.state_dict(), heads=4)
    model = VisionTransformer(config).eval()
    model.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(names["timm_maps"](theirs, images), model.attention_maps(images))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"init_values": 1e-5}, "ls1.gamma"),
        ({"reg_tokens": 4}, "reg_token"),
        ({"qkv_bias": False}, "attn.qkv.bias"),
        ({"pre_norm": True}, "norm_pre"),
        ({"global_pool": "map"}, "attn_pool"),
    ],
)
def test_a_model_with_parts_that_ours_lacks_is_refused(more, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        read_checkpoint(timm_model(**more).state_dict(), heads=4)
