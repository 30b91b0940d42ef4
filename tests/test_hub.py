"""A model and its preprocessing by name or path, as those who published it use it."""

import http.server
import io
import json
import shutil
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from others import (
    PHOTO,
    TO_1E_5,
    authors_logits,
    filled,
    hf_model,
    noise,
    npz_arrays,
    timm,
    timm_model,
    torchvision_model,
    transformers,
)
from safetensors.torch import save_file
from test_publish import Hub
from torch import nn
from torch.testing import assert_close
from torchvision import models

from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.weights import hub
from vit_tutorial.weights.checkpoint import built, load, save
from vit_tutorial.weights.hub import from_checkpoint
from vit_tutorial.weights.layouts import read_checkpoint
from vit_tutorial.weights.preprocessing import Preprocessing

huggingface_hub = pytest.importorskip("huggingface_hub", reason="in the extra `compare`")


# ---- files


@torch.no_grad()
def assert_loaded(name, theirs):
    """A model from a checkpoint, in eval mode, that agrees with theirs; its preprocessing."""
    model, prepared = from_checkpoint(name)
    assert not model.training
    assert prepared.height_width == model.config.height_width
    assert len(prepared.classes) == model.config.classes
    images = noise(2, model.config.channels, *model.config.height_width)
    assert_close(model(images), theirs(images), **TO_1E_5)
    return prepared


def test_a_folder_of_hugging_face_by_folder_and_by_file(tmp_path):
    theirs = hf_model(layer_norm_eps=0.01, hidden_act="gelu_new", num_attention_heads=8)
    theirs.config.id2label = dict(enumerate("bcdea"))
    theirs.save_pretrained(tmp_path)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    transformers.ViTImageProcessor(
        image_mean=mean, image_std=std, resample=3, size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    expected = Preprocessing((32, 32), tuple(mean), tuple(std), tuple("bcdea"))
    for name in (f"hf:{tmp_path}", tmp_path, tmp_path / "model.safetensors"):
        assert assert_loaded(name, lambda images: theirs(images).logits) == expected
    assert_same_as_processor(expected, tmp_path)


def assert_same_as_processor(prepared, folder):
    """Hugging Face's default resizes with torchvision, which rounds a few pixels by one of 255."""
    level = 1 / 255 / min(prepared.std)
    got = transformers.AutoImageProcessor.from_pretrained(folder)(PHOTO, return_tensors="pt")
    gap = (prepared(PHOTO) - got["pixel_values"]).abs()
    assert gap.max() < 1.01 * level
    assert (gap > level / 10).float().mean() < 0.02
    pillow = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    assert_close(prepared(PHOTO), pillow(PHOTO, return_tensors="pt")["pixel_values"])


def test_a_vit_model_folder_without_a_processor(tmp_path):
    theirs = hf_model("Model")
    theirs.save_pretrained(tmp_path)
    prepared = assert_loaded(
        f"hf:{tmp_path}", lambda images: theirs(images).last_hidden_state[:, 0]
    )
    half = (0.5, 0.5, 0.5)
    assert prepared == Preprocessing((32, 32), half, half, (), None, "bilinear")


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    with pytest.raises(ValueError, match=r"has none of model\.safetensors and pytorch_model\.bin"):
        from_checkpoint(f"hf:{tmp_path}")


def test_timms_files_with_and_without_timms_config(tmp_path, monkeypatch):
    theirs = filled(timm.create_model("test_vit", num_classes=7, num_heads=4))  # not 2
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    prepared = assert_loaded(tmp_path / "model.safetensors", theirs)
    assert prepared.classes == tuple("0123456")
    assert_as_timm_prepares(prepared, theirs)
    card = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**card, "global_pool": "avg"}))
    with pytest.raises(ValueError, match="global_pool='avg' with a class token"):
        from_checkpoint(tmp_path / "model.safetensors")
    for damaged in ("{", "[]"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"cannot read .*config\.json"):
            from_checkpoint(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert from_checkpoint(tmp_path / "model.safetensors")[0].config.heads == 1  # 64 / 64


def assert_as_timm_prepares(prepared, theirs):
    cfg = timm.data.resolve_model_data_config(theirs)
    assert prepared.height_width == cfg["input_size"][1:]
    steps = timm.data.create_transform(**cfg, is_training=False)
    assert_close(prepared(PHOTO)[0].float(), steps(PHOTO), atol=0, rtol=0)


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_timms_ways_to_crop(mode):
    theirs = timm.create_model("test_vit", num_classes=3)
    theirs.pretrained_cfg = {**theirs.pretrained_cfg, "crop_mode": mode, "crop_pct": 0.9}
    cfg = timm.data.resolve_model_data_config(theirs)
    config, _ = read_checkpoint(theirs.state_dict())
    assert_as_timm_prepares(hub.timm_preprocessing(cfg, config, ()), theirs)
    with pytest.raises(ValueError, match="crop_mode 'border' is not supported"):
        hub.timm_preprocessing({**cfg, "crop_mode": "border"}, config, ())


def test_files_without_a_card_are_prepared_as_their_library_does_by_default(tmp_path):
    theirs, half = timm_model(L=1, h=1), (0.5, 0.5, 0.5)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    prepared = assert_loaded(tmp_path / "timm.safetensors", theirs)
    assert prepared == Preprocessing((32, 32), half, half, tuple("01234"), 35, "bicubic")
    theirs = torchvision_model(h=1)
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    prepared = assert_loaded(tmp_path / "torchvision.pth", theirs)
    assert prepared == Preprocessing((32, 32), *hub.IMAGENET, tuple("01234"))
    arrays = npz_arrays(L=2, C=1)
    np.savez(tmp_path / "authors.npz", **arrays)
    prepared = assert_loaded(tmp_path / "authors.npz", lambda x: authors_logits(arrays, x))
    assert prepared == Preprocessing((32, 32), (0.5,), (0.5,), tuple("01234"), None, "bilinear")


@pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize"])
def test_a_step_of_hugging_face_that_is_left_out_is_refused_by_name(step):
    with pytest.raises(ValueError, match=f"{step} is false"):
        hub.hf_preprocessing({step: False}, ViTConfig(), ())


@pytest.mark.parametrize(
    ("steps", "resize"),
    [
        ({}, None),
        ({"size": 224}, None),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True}, 256),
        ({"size": {"height": 256, "width": 240}, "do_center_crop": True}, (256, 240)),
        ({"size": 256, "do_center_crop": True}, (256, 256)),
        ({"size": 256, "do_center_crop": True, "crop_size": 224}, (256, 256)),
    ],
)
def test_sizes_as_hugging_face_writes_them(steps, resize):
    assert hub.hf_preprocessing(steps, ViTConfig(), ()).resize == resize


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"size": 256}, r"prepared at \(256, 256\), the model reads \(224, 224\)"),
        ({"size": {"shortest_edge": 224}}, "prepared at 224, the model reads"),
        ({"size": {"longest_edge": 224}}, "size is {'longest_edge': 224}: not supported"),
        ({"do_center_crop": True, "size": 256, "crop_size": {"height": 200, "width": 200}}, "200"),
        ({"do_center_crop": True, "size": {"shortest_edge": "x"}}, "'x'}: not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is true in prep"),
        ({"size": "224"}, r"size is '224', expected int \| dict \| None"),
    ],
)
def test_images_of_hugging_face_for_another_model_are_refused(steps, said):
    with pytest.raises(ValueError, match=said):
        hub.hf_preprocessing(steps, ViTConfig(), ())


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"1": "b", "0": "a"}, ("a", "b")), (["a", "b"], ("a", "b")), ({"0": "a"}, ("0", "1")),
        ({"-1": "a", "1": "b"}, ("0", "1")), ({"x": "a", "y": "b"}, ("0", "1")), ((), ("0", "1")),
        ("ab", ("0", "1")), (5, ("0", "1")), ({"0": ["a"], "1": None}, ("0", "1")),
    ],
)  # fmt: skip
def test_classes_have_the_names_of_a_card_only_if_it_names_each(labels, names):
    assert hub.class_names(labels, ViTConfig(classes=2)) == names


def test_what_was_converted_is_saved_and_read_as_any_other_model(tmp_path):
    model = built(*read_checkpoint(npz_arrays()))
    prepared = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3, tuple("abcde"), (36, 40), "bilinear")
    save(tmp_path / "model.safetensors", model, preprocessing=prepared)
    read, read_prepared = from_checkpoint(tmp_path / "model.safetensors")
    assert read.config == model.config
    assert read_prepared == prepared
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in read.state_dict().items())


def test_a_config_from_before_epsilon_and_gelu_means_the_old_ones(tmp_path):
    config = {"image_size": 8, "patch_size": 4, "layers": 1, "hidden_size": 8, "mlp_size": 8}
    config |= {"heads": 2, "classes": 3}
    header = {"format": "vit_tutorial 1", "config": json.dumps(config), "more": "{}"}
    model = VisionTransformer(ViTConfig(**config))
    save_file(model.state_dict(), tmp_path / "old.safetensors", header)
    assert load(tmp_path / "old.safetensors")[0].config == ViTConfig(
        **config, epsilon=1e-6, gelu="exact"
    )


# ---- from_checkpoint: names

TIMM_NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_a_name_of_timm(monkeypatch):
    theirs = filled(timm.create_model("vit_tiny_patch16_224", depth=1))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    prepared = assert_loaded(f"timm:{TIMM_NAME}", theirs)
    assert prepared.classes[0].startswith("tench")
    assert_as_timm_prepares(prepared, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(global_pool="avg", fc_norm=False), "global_pool='avg' with a class token"),
        (dict(class_token=False, global_pool="max", fc_norm=False), "'max' without a class token"),
        (dict(act_layer="quick_gelu"), "activation QuickGELU is neither"),
    ],
)
def test_what_only_the_model_of_timm_tells_is_refused_by_name(monkeypatch, changes, message):
    theirs = timm_model(**changes)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    with pytest.raises(ValueError, match=message):
        from_checkpoint(f"timm:{TIMM_NAME}")


def test_heads_epsilon_gelu_and_grid_come_from_the_model_of_timm(monkeypatch):
    theirs = timm_model(
        size=(16, 40), h=8, act_layer="gelu_tanh", norm_layer=partial(nn.LayerNorm, eps=0.01)
    )
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    assert_loaded(f"timm:{TIMM_NAME}", theirs)


def test_another_kind_of_timms_models_is_refused_by_name(monkeypatch):
    theirs = timm.create_model("test_resnet")
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    with pytest.raises(ValueError, match="timm's ResNet is no plain VisionTransformer"):
        from_checkpoint("timm:test_resnet.r160_in1k")


def test_a_name_of_torchvision(monkeypatch):
    theirs = torchvision_model(size=224, P=32, D=64, h=2, L=1, K=1000)
    monkeypatch.setattr(models, "get_model", lambda name, weights: theirs)
    prepared = assert_loaded("torchvision:vit_b_32", theirs)
    weights = models.ViT_B_32_Weights.DEFAULT
    assert prepared.classes == tuple(weights.meta["categories"])
    assert_close(prepared(PHOTO)[0].float(), weights.transforms()(PHOTO), atol=0, rtol=0)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_name_of_hugging_face(tmp_path, monkeypatch, file):
    theirs, asked = hf_model(), []
    theirs.save_pretrained(tmp_path)
    if file == "pytorch_model.bin":
        torch.save(theirs.state_dict(), tmp_path / file)
        (tmp_path / "model.safetensors").unlink()

    def fetch(name, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert_loaded("hf:google/vit-base-patch16-224", lambda images: theirs(images).logits)
    assert asked[-1] == ["config.json", "preprocessor_config.json", file]


OFFLINE = {
    f"timm:{TIMM_NAME}": f"huggingface.co/timm/{TIMM_NAME}/resolve/main/model.safetensors",
    "torchvision:vit_b_32": "https://download.pytorch.org/models/vit_b_32-d86f8d99.pth",
    "hf:google/vit-base-patch16-224": "google/vit-base-patch16-224/resolve/main/config.json",
}


@pytest.mark.parametrize("name", OFFLINE)
def test_without_a_network_it_is_said_what_to_fetch_and_where_to_put_it(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # or it tries for long
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"(?s)cannot fetch.*one folder") as error:
        from_checkpoint(name)
    assert OFFLINE[name] in str(error.value)
    if name.startswith("torchvision"):
        assert str(tmp_path / "checkpoints") in str(error.value)


class AnyHub(Hub):
    """A hub that has any repository but those of "nobody", and perhaps loses connections."""

    cut = False

    def do_GET(self, body=True):
        if "/nobody/" in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
        else:
            super().do_GET(body)

    def end_headers(self):
        super().end_headers()
        if self.cut and self.command == "GET" and self.path.endswith(".safetensors"):
            self.wfile.write(b"half of it")
            self.wfile = io.BytesIO()  # and no more


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub on this machine, and the folder that it serves; nobody waits to try again."""
    monkeypatch.setattr(AnyHub, "folder", tmp_path / "hub", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), AnyHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here, known = f"http://127.0.0.1:{server.server_port}", huggingface_hub.constants
        template = f"{here}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(known, "ENDPOINT", here)
        monkeypatch.setattr(known, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(known, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(known, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(known, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield tmp_path / "hub"
        server.shutdown()


def test_what_a_hub_serves_is_fetched_and_agrees_with_its_library(served):
    theirs = hf_model().float()
    theirs.save_pretrained(served)
    model, prepared = from_checkpoint("hf:me/small")
    images = noise(2, 3, 32, 32).float()
    assert_close(model(images), theirs(images).logits, **TO_1E_5)
    assert prepared.classes == tuple(theirs.config.id2label.values())
    shutil.rmtree(served)
    theirs = filled(timm.create_model("test_vit")).float()
    timm.models.save_for_hf(theirs, served, safe_serialization=True)
    model, prepared = from_checkpoint("timm:test_vit.r160_in1k")
    images = noise(2, 3, 160, 160).float()
    assert_close(model(images), theirs(images), **TO_1E_5)
    assert_as_timm_prepares(prepared, theirs)


@pytest.mark.parametrize(
    ("name", "cut", "said"),
    [
        ("hf:me/small", True, r"cannot fetch it \(.*\). Fetch https://.* on a machine with a net"),
        ("timm:test_vit.r160_in1k", True, r"cannot fetch it \(.*\). Fetch https://.*test_vit"),
        (
            "hf:nobody/small",
            False,
            "there is no such model, or access to it is restricted: 404 Client Error",
        ),
        (
            "hf:a/b/c",
            False,
            "there is no such model, or access to it is restricted: Repo id must be",
        ),
        ("hf:me/bert", False, "missing tensors: .*cls_token"),
    ],
)
def test_what_cannot_be_fetched_or_used_is_one_line_with_the_name(
    served, name, cut, said, monkeypatch
):
    monkeypatch.setattr(AnyHub, "cut", cut)
    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    bert = transformers.BertConfig(intermediate_size=24, **sizes)
    transformers.BertModel(bert).save_pretrained(served)
    with pytest.raises(ValueError, match=said) as error:
        from_checkpoint(name)
    assert str(error.value).startswith(f"{name}: ")


def test_a_library_without_a_name_is_no_folder(tmp_path, monkeypatch):
    hf_model().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("hf:", "timm:", "torchvision:"):
        with pytest.raises(ValueError, match=f"unknown pretrained model '{name}'"):
            from_checkpoint(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timm:vit_tinny_patch16_224", "vit_tiny_patch16_224"),
        (f"timm:{TIMM_NAME}x", TIMM_NAME),
        ("torchvision:vit_b_61", "vit_b_16"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    library, _, name = name.partition(":")
    with pytest.raises(ValueError, match=f"unknown {library} model '{name}'.*'{nearest}"):
        from_checkpoint(f"{library}:{name}")


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("timm:vit_tiny_patch16_224", "timm"),
        ("hf:google/vit-base-patch16-224", "huggingface_hub"),
    ],
)
def test_a_missing_library_is_named_with_its_cure(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf'{module} is missing: pip install "vit-tutorial\[comp'):
        from_checkpoint(name)
