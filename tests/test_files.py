"""Files that lie are refused by name before they take memory; odd but honest ones are read."""

import json
import resource
import time
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vit_tutorial import VisionTransformer, ViTConfig, from_checkpoint
from vit_tutorial.lab.resume import load_state
from vit_tutorial.weights import checkpoint, hub
from vit_tutorial.weights.checkpoint import save
from vit_tutorial.weights.layouts import read_checkpoint, to_timm
from vit_tutorial.weights.preprocessing import Preprocessing

CONFIG = ViTConfig(8, 4, 3, 2, 1, 64, 16, 1)
PREPARED = Preprocessing((8, 8), (0.5,) * 3, (0.2,) * 3, ("cat", "dog"))
IMAGE = np.arange(12 * 9 * 3, dtype=np.uint8).reshape(12, 9, 3)


def model(config=CONFIG):
    made = VisionTransformer(config).eval()
    torch.nn.init.normal_(made.head.weight)
    return made


def ours(path, tensors=None, config=(), steps=(), header=()):
    """A file of ours in which something may be wrong, with a right SHA-256."""
    more = {"preprocessing": asdict(PREPARED) | dict(steps)}
    header = {
        "format": checkpoint.FORMAT, "more": json.dumps(more),
        "config": json.dumps(asdict(CONFIG) | dict(config)), **dict(header),
    }  # fmt: skip
    tensors = model().state_dict() | (tensors or {})
    path.write_bytes(checkpoint.pack({n: t for n, t in tensors.items() if t is not None}, header))
    return path


def theirs(**changes):
    """Tensors as timm names them."""
    return to_timm(model().state_dict()) | changes


@pytest.fixture
def cheap():
    """What runs under this fixture takes hardly any memory or time."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2e5  # kilobytes
    assert time.monotonic() - start < 10


def refused(path, *words):
    """What `from_checkpoint` says against a file, which it names."""
    with pytest.raises(ValueError, match="cannot read ") as error:
        from_checkpoint(path)
    said = str(error.value)
    assert path.name in said
    assert "\n" not in said
    for word in words:
        assert word in said
    return said


# ---- small files that would take gigabytes


@pytest.mark.parametrize(
    "config",
    [
        dict(hidden_size=16384), dict(layers=100_000), dict(layers=10**18), dict(classes=10**9),
        dict(mlp_size=10**12), dict(image_size=2**15), dict(image_size=10**9, patch_size=10**9),
        dict(image_size=2**15, positions="sincos"), dict(image_size=2**40, positions="none"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_larger_than_its_file_is_refused_at_once(tmp_path, cheap, config):
    changes = {} if "positions" not in config else {"embedding.positions": None}
    refused(ours(tmp_path / "model.safetensors", changes, config))


@pytest.mark.parametrize("kind", ["npz", "pth"])
def test_what_unpacks_to_many_times_its_size_is_refused(tmp_path, cheap, kind):
    path = tmp_path / f"bomb.{kind}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            name = f"{i}.npy" if kind == "npz" else f"archive/data/{i}"
            archive.writestr(name, bytes(10**7))
    refused(path, "would unpack to 40,000,000")


def test_tensors_that_hold_fewer_numbers_than_they_show_are_refused(tmp_path, cheap):
    huge = torch.zeros(1).expand(60000, 60000)
    torch.save(theirs(**{"norm.weight": huge}), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "would unpack to")
    torch.save(theirs(**{"norm.weight": torch.zeros(1).expand(64)}), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "norm.weight is expanded")
    for odd in (torch.zeros(64, device="meta"), torch.eye(8).to_sparse()):
        torch.save(theirs(**{"norm.weight": odd}), tmp_path / "x.pth")
        refused(tmp_path / "x.pth", "norm.weight is a", "tensor on")


@pytest.mark.parametrize("size", [0, 1])
def test_many_blocks_without_content_cost_no_time(tmp_path, cheap, size):
    blocks = {f"blocks.{i}.norm1.bias": torch.zeros(size) for i in range(5_000)}
    save_file(theirs() | blocks, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", "blocks.")


# ---- what a configuration may not hold


@pytest.mark.parametrize(
    "config",
    [
        dict(image_size="32"), dict(image_size=None), dict(image_size=[8]), dict(image_size=8.0),
        dict(layers=True), dict(heads=0), dict(dropout=None), dict(epsilon="1"), dict(gelu=None),
        dict(epsilon=float("nan")), dict(pool=["token"]), dict(depth=3), dict(hidden_size=-64),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named(tmp_path, config):
    refused(ours(tmp_path / "model.safetensors", config=config), next(iter(config)))


@pytest.mark.parametrize(
    "steps",
    [
        dict(std=[0.2, 0, 0.2]), dict(std=[0.2]), dict(mean=[float("nan")] * 3), dict(mean="abc"),
        dict(height_width=[16, 16]), dict(height_width=8), dict(classes=["one"]), dict(resize=0),
        dict(classes=[1, 2]), dict(resize=10**6), dict(interpolation="random"), dict(more=1),
        dict(mean=[0.5] * 5, std=[0.2] * 5),
    ],
)  # fmt: skip
def test_a_preprocessing_that_no_image_can_go_through_is_refused(tmp_path, steps):
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        from_checkpoint(ours(tmp_path / "model.safetensors", steps=steps))


@pytest.mark.parametrize("part", ["config", "more"])
@pytest.mark.parametrize("text", ["{", "[]", "3", "null", "[" * 10**5, '{"a": 1e999}'])
def test_json_that_is_no_configuration_is_refused(tmp_path, part, text):
    refused(ours(tmp_path / "model.safetensors", header={part: text}))


@pytest.mark.parametrize(
    ("card", "named"),
    [
        (dict(hidden_act=None), "hidden_act is None"), (dict(hidden_act=3), "hidden_act is 3"),
        (dict(image_size="8"), "image_size is '8'"), (dict(num_attention_heads=1.5), "is 1.5"),
        (dict(layer_norm_eps=True), "layer_norm_eps is True"), (dict(image_size=-8), "8"),
        (dict(image_size=0), "image_size must be"),
    ],
)  # fmt: skip
def test_a_config_json_that_makes_no_sense_is_refused(tmp_path, card, named):
    hugging = {f"vit.{n}": t for n, t in HUGGING.items() if "classifier" not in n}
    save_file(hugging | {n: t for n, t in HUGGING.items() if "classifier" in n},
              tmp_path / "model.safetensors")  # fmt: skip
    usual = {"num_attention_heads": 1, "image_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(usual))
    assert from_checkpoint(tmp_path)[0].config.heads == 1
    (tmp_path / "config.json").write_text(json.dumps(usual | card))
    refused(tmp_path / "model.safetensors", named)


D, M = 64, 16
HUGGING = {
    "embeddings.cls_token": torch.zeros(1, 1, D), "layernorm.weight": torch.ones(D),
    "embeddings.position_embeddings": torch.zeros(1, 5, D), "layernorm.bias": torch.zeros(D),
    "embeddings.patch_embeddings.projection.weight": torch.zeros(D, 3, 4, 4),
    "embeddings.patch_embeddings.projection.bias": torch.zeros(D),
    **{
        f"encoder.layer.0.{part}.{end}": torch.zeros(*(shape if end == "weight" else shape[:1]))
        for part, shape in {
            "layernorm_before": (D,), "layernorm_after": (D,), "output.dense": (D, M),
            "attention.output.dense": (D, D), "intermediate.dense": (M, D),
            **{f"attention.attention.{x}": (D, D) for x in ("query", "key", "value")},
        }.items()
        for end in ("weight", "bias")
    },
    "classifier.weight": torch.zeros(2, D), "classifier.bias": torch.zeros(2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        (dict(crop_pct=0), "crop_pct"), (dict(crop_pct=-1), "crop_pct"), (dict(std=[0]), "std"),
        (dict(crop_pct=1e-9), "resize"), (dict(mean=[0.5, 0.5]), "mean"), (dict(mean=3), "mean"),
        (dict(interpolation=3), "interpolation"), (dict(crop_mode=3), "crop_mode"),
    ],
)  # fmt: skip
def test_steps_of_timm_that_make_no_sense_are_refused(steps, named):
    with pytest.raises(ValueError, match=named):
        hub.timm_preprocessing(steps, CONFIG, ())


def test_another_factor_of_hugging_face_gives_the_same_input_by_another_mean_and_std():
    usual = hub.hf_preprocessing({}, CONFIG, ())
    steps = {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}
    found = hub.hf_preprocessing(steps, CONFIG, ())
    torch.testing.assert_close(found(IMAGE), usual(IMAGE))
    expected = usual.bytes(IMAGE)[None] / 127.5 - 1
    torch.testing.assert_close(found(IMAGE), expected)
    for wrong in (0, -1, "1", True, float("inf")):
        with pytest.raises(ValueError, match="rescale_factor"):
            hub.hf_preprocessing({"rescale_factor": wrong}, CONFIG, ())


# ---- what tensors may not hold


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_weights_that_are_no_finite_numbers_are_refused_by_name(tmp_path, value, whose):
    bad = torch.zeros(64)
    bad[7] = value
    if whose == "ours":
        path = ours(tmp_path / "x.safetensors", {"encoder.norm.bias": bad})
    else:
        save_file(theirs(**{"norm.bias": bad}), path := tmp_path / "x.safetensors")
    refused(path, "norm.bias holds NaN or infinity")


KINDS = [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.int64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_other_numbers_than_floats_are_refused_not_cast(tmp_path, kind, whose):
    bad = torch.ones(64).to(kind)
    if whose == "ours":
        path = ours(tmp_path / "x.safetensors", {"encoder.norm.bias": bad})
    else:
        save_file(theirs(**{"norm.bias": bad}), path := tmp_path / "x.safetensors")
    refused(path, f"norm.bias holds {kind}, expected floating-point")


@pytest.mark.parametrize("odd", [{1: torch.zeros(1)}, {"a": 3}, {}, {"a\x1b[31m\n": torch.ones(1)}])
def test_names_and_values_that_are_no_tensors_of_a_model_are_refused(tmp_path, odd):
    torch.save(theirs() | odd if odd else {}, tmp_path / "x.pth")
    assert "\x1b" not in refused(tmp_path / "x.pth")


# ---- what is odd but honest


def same(name, made, dtype=torch.float32):
    """Whether a checkpoint gives the logits of a model on an image of another size."""
    read, prepared = from_checkpoint(name)
    logits = read(prepared(IMAGE))
    assert logits.dtype == dtype
    expected = made(replace(prepared, precision=str(dtype)[6:])(IMAGE))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_of_any_precision_reads_what_its_own_preprocessing_gives(tmp_path, dtype):
    made = model().to(dtype)
    save(tmp_path / "model.safetensors", made, preprocessing=PREPARED)
    same(tmp_path / "model.safetensors", made, dtype)
    save_file(to_timm(made.state_dict()), tmp_path / "timm.safetensors")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    same(tmp_path / "timm.safetensors", made.to(wide), wide)


@pytest.mark.parametrize("start", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x, "epoch": 3, "optimizer": {}}])
def test_wrappers_around_names_and_tensors_are_taken_off(tmp_path, start, wrap):
    made = model()
    tensors = {start + name: t for name, t in to_timm(made.state_dict()).items()}
    torch.save(wrap(tensors), tmp_path / "x.pth")
    same(tmp_path / "x.pth", made)
    assert read_checkpoint(wrap(tensors))[0] == CONFIG


def test_two_models_in_a_file_are_named(tmp_path):
    torch.save({"model": theirs(), "model_ema": theirs()}, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "several models, model, model_ema")


def test_a_checkpoint_in_shards_is_read_from_its_folder_and_needs_all_of_them(tmp_path):
    made, names = model(), {}
    for i, part in enumerate(np.array_split(list(theirs()), 3)):
        names |= dict.fromkeys(map(str, part), f"model-{i}.safetensors")
        tensors = to_timm(made.state_dict())
        save_file({n: tensors[n] for n in part}, tmp_path / f"model-{i}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    for name in (tmp_path, str(index), f"hf:{tmp_path}"):
        same(name, made)
    for wrong in ("../x.safetensors", "/etc/passwd", 3):
        index.write_text(json.dumps({"weight_map": names | {"cls_token": wrong}}))
        refused(index)
    index.write_text(json.dumps({"weight_map": names}))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no such checkpoint: .*model-1\.safetensors"):
        from_checkpoint(index)


def test_what_holds_more_than_tensors_or_less_says_what_to_do(tmp_path):
    torch.save(model(), tmp_path / "whole.pth")
    said = refused(tmp_path / "whole.pth", "save the model's state_dict() alone")
    assert "Weights only" not in said  # torch's own words, which say how to open it after all
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    said = "only a Git LFS pointer: fetch the file with git lfs pull"
    refused(tmp_path / "model.safetensors", said)


def test_tensors_of_this_package_without_a_configuration_say_what_to_do(tmp_path):
    torch.save(model().state_dict(), tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "use checkpoint.save")


# ---- which file a name means


def test_a_run_is_found_by_its_folder_also_if_it_has_the_name_of_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("timm", "hf", "mnist"):
        save(tmp_path / name / "model.safetensors", model(), preprocessing=PREPARED)
        (tmp_path / name / "config.json").write_text("{}")
    for name in ("timm", "hf", "./mnist", "hf:timm"):
        assert from_checkpoint(name)[0].config == CONFIG
    assert from_checkpoint("mnist")[0].config.classes == 10  # the shipped model wins
    with pytest.raises(ValueError, match="has none of model"):
        from_checkpoint(tmp_path)
    for name in ("runs/x", "a" * 5000 + ".pth", "a\0.pth"):
        with pytest.raises(ValueError, match=r"no such checkpoint: [ra]"):
            from_checkpoint(name)


def test_a_state_with_missing_parts_is_refused_by_name(tmp_path):
    file = tmp_path / "state.safetensors"
    for state in (None, "{", "[]", "[1, 2]", '[1, 2, 3, {"a": 1}, 5]'):
        header = {"format": "vit_tutorial state 1"} | ({"state": state} if state else {})
        file.write_bytes(checkpoint.pack({"a": torch.zeros(1)}, header))
        with pytest.raises(ValueError, match=f"cannot read {file}"):
            load_state(file)
    with pytest.raises(ValueError, match="it has format 'vit_tutorial state 1', expected"):
        from_checkpoint(file)
