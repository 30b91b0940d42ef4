"""The live page computes what PyTorch computes, from weights that are not stale."""

import base64
import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.drawings import drawings
from vit_tutorial import VisionTransformer, ViTConfig, from_checkpoint, load_pretrained
from vit_tutorial import __main__ as cli
from vit_tutorial.attention_maps import attention_rollout
from vit_tutorial.data import load
from vit_tutorial.lab import export
from vit_tutorial.weights import checkpoint

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "book" / "_live"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import live  # noqa: E402

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: no JavaScript is run")
L, H, T, K = 6, 4, 50, 10


@pytest.fixture(scope="module")
def small():
    return from_checkpoint("mnist-int8")


def digits(count):
    return load("digits").test.images[:count].float() / 255


def run_engine(folder, **ask):
    """What the page's engine computes in node: float32 numbers."""
    ask["out"] = str(folder / "out.bin")
    if "images" in ask:
        ask["images"].numpy().tofile(folder / "in.bin")
        ask["images"] = str(folder / "in.bin")
    script = Path(__file__).with_name("run_engine.js")
    done = subprocess.run(
        [NODE, script, LIVE], input=json.dumps(ask), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.fromfile(ask["out"], "<f4"))


def engine(folder, images, **what):
    """Logits after each block (B L K) and all attention maps (B L h T T)."""
    numbers = run_engine(folder, images=images, what=what).view(len(images), -1)
    lens, maps = numbers.split([L * K, L * H * T * T], dim=1)
    return lens.view(-1, L, K), maps.view(-1, L, H, T, T)


# ---- the files


def test_the_pages_files_are_made_from_the_shipped_model(tmp_path, capsys):
    card = checkpoint.pretrained_card("mnist-int8")
    int8 = tmp_path / "mnist-int8.safetensors"
    assert cli.main(["export", "--page", str(tmp_path), "--int8", str(int8)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "vit-weights.js")
    fresh = (tmp_path / "vit-weights.js").read_text(encoding="utf-8")
    assert fresh == (LIVE / "vit-weights.js").read_text(encoding="utf-8"), card["command"]
    assert checkpoint.pretrained_card("mnist")["sha256"] == card["source_sha256"]
    assert card["source_sha256"] in fresh
    mine, shipped = checkpoint.load(int8)[0], load_pretrained("mnist-int8")
    assert all(map(torch.equal, mine.state_dict().values(), shipped.state_dict().values()))
    new, old = (json.loads((d / "goldens.json").read_text()) for d in (tmp_path, LIVE))
    assert new["source"] == old["source"]
    assert_close(torch.tensor(new["logits"]), torch.tensor(old["logits"]), atol=1e-4, rtol=0)


def test_rounding_moves_no_weight_by_more_than_half_a_step(small):
    full, levels = load_pretrained("mnist").state_dict(), 2 * export.TOP + 1
    assert checkpoint.pretrained_card("mnist-int8")["levels"] == levels
    for name, weight in small[0].state_dict().items():
        rows = full[name].reshape(-1, weight.shape[-1])
        half = rows.abs().amax(dim=1, keepdim=True) / export.TOP / 2
        error = (weight.view_as(rows) - rows).abs()
        assert (error / half.clamp(min=1e-12)).max() < 1.001
        assert all(len(row.unique()) <= levels for row in weight.view_as(rows))


def test_a_level_is_one_printable_character_that_needs_no_escape():
    levels = torch.arange(-export.TOP, export.TOP + 1).to(torch.int8)[None]
    text = export.as_text(levels).decode()
    assert len(set(text)) == levels.numel()
    assert text.isprintable()
    assert json.dumps(text) == f'"{text}"'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected --page DIR"),
        (["--int8", "x.safetensors"], "expected --page DIR"),
        (["--page", "x", "--weights", "minst"], "did you mean 'mnist'"),
    ],
)
def test_words_that_export_nothing_are_refused(words, said, capsys):
    assert cli.main(["export", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_the_engine_cannot_run_is_refused(small):
    config = ViTConfig(28, 4, 1, 10, 1, 8, 8, 1, pool="mean")
    with pytest.raises(ValueError, match="it needs a class token"):
        export.page_script(VisionTransformer(config), small[1], "")


# ---- the numbers


@needs_node
@torch.no_grad()
def test_the_page_agrees_with_pytorch_on_200_images(small, tmp_path):
    model, preparation = small
    lens, maps = engine(tmp_path, digits(200))
    images = preparation.normalise(digits(200))
    assert_close(lens[:, -1], model(images), atol=1e-5, rtol=0)
    assert_close(maps, model.attention_maps(images), atol=1e-5, rtol=0)
    z, encoder = model.embedding(images), model.encoder
    for number, block in enumerate(encoder.blocks):
        z = block(z)
        assert_close(lens[:, number], model.head(encoder.norm(z)[:, 0]), atol=2e-5, rtol=0)


@needs_node
@torch.no_grad()
def test_rollout_is_the_packages(small, tmp_path):
    got = run_engine(tmp_path, images=digits(3), rollout=L).view(3, T, T)
    maps = small[0].attention_maps(small[1].normalise(digits(3)))
    assert_close(got, attention_rollout(maps), atol=1e-5, rtol=0)


def without_positions(model, images):
    model.embedding.positions.zero_()
    return model(images)


def without_a_head(model, images):
    model.encoder.blocks[2].attention.projection.weight[:, 16:32] = 0  # the second of four
    return model(images)


def with_half_the_patches(model, images):
    kept = model.embedding(images)[:, ::2]  # what nobody reads might as well not be there
    return model.head(model.encoder(kept)[:, 0])


def shuffled(model, images):
    rows = images.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(images), 49, 4, 4)[:, ORDER]
    rows = rows.view(-1, 7, 7, 4, 4).permute(0, 1, 3, 2, 4)
    return model(rows.reshape(-1, 1, 28, 28))


ORDER = [(5 * p + 3) % 49 for p in range(49)]
WHAT_IFS = {
    without_positions: {"noPositions": True},
    without_a_head: {"off": [n == 2 * H + 1 for n in range(L * H)]},
    with_half_the_patches: {"dropped": [t % 2 == 1 for t in range(T)]},
    shuffled: {"order": ORDER},
}


@needs_node
@pytest.mark.parametrize("change", WHAT_IFS, ids=lambda change: change.__name__)
@torch.no_grad()
def test_what_if_on_the_page_is_what_pytorch_says(change, small, tmp_path):
    lens, _ = engine(tmp_path, digits(4), **WHAT_IFS[change])
    images = small[1].normalise(digits(4))
    expected = change(load_pretrained("mnist-int8"), images)
    assert (expected - small[0](images)).abs().max() > 0.01  # it changes something
    assert_close(lens[:, -1], expected, atol=1e-5, rtol=0)


def test_the_goldens_are_pytorchs(small):
    """They let a browser compare the page with PyTorch."""
    found = json.loads((LIVE / "goldens.json").read_text())
    pixels = [np.frombuffer(base64.b64decode(image), np.uint8) for image in found["images"]]
    images = torch.from_numpy(np.stack(pixels)).view(-1, 1, 28, 28).float() / 255
    with torch.no_grad():
        logits = small[0](small[1].normalise(images))
        maps = small[0].attention_maps(small[1].normalise(images))[..., 0, :]
    assert_close(torch.tensor(found["logits"]), logits, atol=1e-5, rtol=0)
    assert_close(torch.tensor(found["class_token"]), maps, atol=1e-5, rtol=0)


# ---- drawings


@needs_node
def test_of_200_drawings_at_least_98_in_100_are_read(tmp_path):
    made = drawings(200, seed=0)
    found = run_engine(tmp_path, strokes=[strokes for _, strokes in made]).view(200, -1)
    pixels, lens = found.split([784, L * K], dim=1)
    wrong = [(digit, got) for (digit, _), got in zip(made, lens[:, -K:].argmax(dim=1).tolist(),
             strict=True) if digit != got]  # fmt: skip
    assert len(wrong) <= 4, wrong
    image = pixels.view(200, 28, 28)
    places = torch.arange(28) + 0.5
    mass = image.sum(dim=(1, 2))
    for side in (1, 2):  # the center of mass lies in the middle, whatever was drawn where
        center = (image.sum(dim=3 - side) * places).sum(dim=1) / mass
        assert_close(center, torch.full((200,), 14.0), atol=0.1, rtol=0)


@needs_node
def test_where_and_how_large_a_digit_is_drawn_changes_nothing(tmp_path):
    line = [[[0.1, 0.2], [0.5, 0.2], [0.3, 0.9]]]
    moved = [[[0.7 + 0.2 * x, 0.5 + 0.2 * y] for x, y in line[0]]]
    both = run_engine(tmp_path, strokes=[line, moved]).view(2, -1)
    assert_close(both[0], both[1], atol=1e-4, rtol=0)
    assert both[0, :784].max() == 1


# ---- the pages


def test_all_files_of_the_page_together_weigh_at_most_200_kb_compressed():
    sizes = {name: len(gzip.compress((LIVE / name).read_bytes(), 6)) for name in live.FILES}
    assert sum(sizes.values()) <= 200_000, sizes
    stated = json.loads((ROOT / live.RECORD).read_text())["runs"][-1]["bytes"]
    assert stated == pytest.approx(sum(sizes.values()), rel=0.02)  # if not: measure again


def test_the_numbers_in_the_pages_are_the_records():
    known = live.values(ROOT)
    run = json.loads((ROOT / live.RECORD).read_text())["runs"][-1]
    assert known["live_right"] == f"{run['drawings right']} of {run['drawings']}"
    assert known["live_accuracy"] == f"{100 * run['test_accuracy']:.2f} %"
    for page in live.PAGES:
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        named = set(live.NAME.findall(text))
        assert named
        assert named <= set(known)
        assert "```{live}" in text


def test_the_front_page_opens_with_the_way_in_and_the_model():
    text = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    start = text.index("Start with 01")
    assert start < text.index("](#three-routes)") < text.index("```{live} small") < text.index("##")
