"""What the book's own extension makes of figures, expected outputs and widgets."""

import base64
import hashlib
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from vit_tutorial.figures import diagrams
from vit_tutorial.figures.page import MIME

BOOK = Path(__file__).resolve().parents[1] / "book"
sphinx = pytest.importorskip("sphinx", reason="the extra 'book' is not installed")


@pytest.fixture(scope="module")
def extension():
    sys.path.insert(0, str(BOOK / "_ext"))
    import pictures
    import widgets

    yield SimpleNamespace(pictures=pictures, widgets=widgets)
    sys.path.remove(str(BOOK / "_ext"))


def png(width, height):
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_a_page_shows_the_picture_that_fits_its_mode_and_width(extension, tmp_path):
    picture, phone = png(660, 200), png(358, 500)
    others = {"wide-dark": b"dark", "phone-light": phone, "phone-dark": phone}
    stored = {name: base64.b64encode(data).decode() for name, data in others.items()}
    data = {"image/png": base64.b64encode(picture).decode(), MIME: stored}
    notebook = {"cells": [{"outputs": [{"data": data}]}]}
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    stem = hashlib.sha256(picture).hexdigest()
    env = SimpleNamespace(doc2path=lambda page: path, found_docs={"page"})
    app = SimpleNamespace(env=env, outdir=tmp_path)
    context = {"body": f'<img alt="a map" src="../_images/{stem}.png" /><img src="x.png"/>'}
    extension.pictures.fit_pictures(app, "page", "", context, None)
    body = context["body"]
    for name, data in others.items():
        assert (tmp_path / "_images" / f"{stem}-{name}.webp").read_bytes() == data
        assert f"../_images/{stem}-{name}.webp" in body
    assert body.count("<picture") == body.count("<source") == body.count('alt="a map"') == 2
    # the place has the picture's shape before it is there
    assert body.count('<img loading="lazy" width="660" height="200" alt') == 2
    assert body.count('.webp" width="358" height="500">') == 2
    assert body.endswith('<img src="x.png"/>')
    for mode in ("light", "dark"):
        shown = body.split(f'class="page-{mode}"')[1].split("</picture>")[0]
        assert f"{stem}-phone-{mode}.webp" in shown


def test_a_figure_with_an_svg_of_its_own_is_that_svg_in_the_page(extension, tmp_path):
    figure = diagrams.unrolling(torch.rand(28, 28))
    svg = figure.pictures["inline-svg"].decode()
    assert len(svg) < 10_000
    assert 'role="img" aria-label="' in svg
    bundle, _ = figure._repr_mimebundle_()
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps({"cells": [{"outputs": [{"data": bundle}]}]}), encoding="utf-8")
    env = SimpleNamespace(doc2path=lambda page: path, found_docs={"page"})
    stem = hashlib.sha256(figure.pictures["wide-light"]).hexdigest()
    context = {"body": f'<p><img src="_images/{stem}.png" /></p><img src="x.png"/>'}
    app = SimpleNamespace(env=env, outdir=tmp_path)
    extension.pictures.fit_pictures(app, "page", "", context, None)
    assert context["body"] == f'<p>{svg}</p><img src="x.png"/>'


def test_a_patch_unrolls_into_the_row_of_its_number():
    image = torch.zeros(28, 28)
    image[8:12, 12:16] = torch.arange(16).view(4, 4) / 255  # patch 18
    svg = diagrams.unrolling(image, number=18).pictures["inline-svg"].decode()
    numbers = re.findall(r'<text x="\d+" y="12">(\d+)</text>', svg)
    assert numbers == [str(n) for n in range(16)]
    assert "row 18" in svg


def test_a_tagged_figure_gets_its_widget_below_it(extension):
    figure = {"cell_type": "code", "metadata": {"tags": ["expect", "widget:patches"]}}
    cells = extension.widgets.with_widgets([figure, {"cell_type": "markdown", "metadata": {}}])
    assert [cell["cell_type"] for cell in cells] == ["code", "markdown", "markdown"]
    assert cells[1]["source"] == "```{vit-widget} patches\n```\n"
    assert set(extension.widgets.MAKE) == set(extension.widgets.WORDS)


def test_each_widget_stands_in_its_chapter():
    found = {}
    for path in BOOK.glob("[0-9][0-9]_*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for tag in cell["metadata"].get("tags", []):
                if tag.startswith("widget:"):
                    found.setdefault(tag.removeprefix("widget:"), set()).add(path.name[:2])
    assert found.pop("attention") >= {"05"}
    assert found == {"patches": {"01"}, "positions": {"04"}}


def test_the_widgets_data_are_the_models_numbers_and_small(extension):
    made = {name: make() for name, make in extension.widgets.MAKE.items()}
    model, _, images = extension.widgets.model_and_digits()
    found = made["attention"]
    weights = torch.tensor(list(base64.b64decode(found["weights"])))
    maps, step = model.attention_maps(images).flatten(), found["top"] / 255
    torch.testing.assert_close(weights * step, maps, atol=0.51 * step, rtol=0)
    for alike in map(base64.b64decode, made["positions"]["alike"].values()):
        assert {alike[50 * n] for n in range(49)} == {255}  # each position is like itself
    size = {name: len(json.dumps(data)) for name, data in made.items()}
    assert size["attention"] < 350_000  # before gzip
    assert size["positions"] + size["patches"] < 10_000
