"""The reference pages: the glossary leads to paragraphs, and the questions page's code runs."""

import re
import sys

import nbformat
import pytest
import torch

from tools.sync_book import ROOT
from vit_tutorial import VisionTransformer
from vit_tutorial.weights.layouts import read_checkpoint

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import terms

timm = pytest.importorskip("timm", reason="in the extra `compare`")
GLOSSARY = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")


def timm_model(**more):
    torch.manual_seed(0)
    return timm.models.VisionTransformer(32, 8, embed_dim=64, num_heads=4, depth=2, **more).eval()


def test_every_chapter_that_the_glossary_names_uses_the_term():
    chapters = {chapter for _, _, chapter in terms.entries(GLOSSARY)}
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
