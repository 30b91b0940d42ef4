"""Models by name or path: shipped with the package, in a file, or published by another library."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from inspect import formatannotation
from math import floor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vit_tutorial.errors import shown, unknown
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.checkpoint import built
from vit_tutorial.weights.files import is_a, is_ours, read_tensors, reading, unwrapped
from vit_tutorial.weights.layouts import read_checkpoint, recognise
from vit_tutorial.weights.preprocessing import Preprocessing

Prepared = tuple[VisionTransformer, Preprocessing]
ADDRESS = "https://huggingface.co/{}/resolve/main/{}"
WEIGHTS = (  # what a folder may hold; an index names the files that share a model's tensors
    "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
GELU = {"gelu": "exact", "gelu_tanh": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its pixels


def from_checkpoint(name: str | Path) -> Prepared:
    """A model in eval mode on the CPU, and its preprocessing.

    `name` is a shipped model ("mnist", "fashion"), a file that `save` wrote, a file that another
    library wrote, a folder that holds such a file, or what a library calls a model that it fetches:
    "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "torchvision:vit_b_16",
    "hf:google/vit-base-patch16-224". Raises ValueError for an unknown name, a missing, damaged or
    unsuitable file, and where nothing can be fetched, with what to fetch and where to put it.
    """
    return with_more(name)[:2]


def with_more(name: str | Path) -> tuple[VisionTransformer, Preprocessing, dict[str, Any]]:
    """`from_checkpoint`, and all that a file of ours says beside the weights."""
    library, colon, rest = str(name).partition(":")
    more: dict[str, Any] = {}
    if colon and library in FETCH and rest:
        try:
            model, steps = FETCH[library](rest)
        except ValueError as error:
            raise ValueError(f"{shown(name)}: {error}") from error
    else:
        path = find(name)
        with reading(path):
            model, steps, more = from_file(path)
    c, found = model.config, (len(steps.mean), len(steps.classes), steps.height_width)
    if found != (c.channels, c.classes, c.height_width):
        raise ValueError(
            f"{shown(name)}: images are prepared with (channels, classes, size) {found}, the model "
            f"reads {(c.channels, c.classes, c.height_width)}"
        )
    widest = reduce(torch.promote_types, (weight.dtype for weight in model.parameters()))
    if str(name) in checkpoint.pretrained_names():  # half precision is for their files alone
        widest = torch.promote_types(widest, torch.float32)
    return model.to(widest), replace(steps, precision=str(widest).removeprefix("torch.")), more


def find(name: str | Path) -> Path:
    """The file of a checkpoint by path, by folder, or by the name of a shipped model.

    The name of a shipped model wins over a file or folder that is called the same.
    """
    path = Path(name)
    outside = str(name) and (os.path.exists(path) or path.suffix or len(path.parts) > 1)
    if str(name) in checkpoint.pretrained_names() or not outside:
        return checkpoint.pretrained_path(str(name))
    return in_folder(path) if os.path.isdir(path) else path


def in_folder(folder: Path) -> Path:
    """The file with the weights in a folder of a run, or of `save_pretrained`."""
    for weights in WEIGHTS:
        if (folder / weights).is_file():
            return folder / weights
    raise ValueError(f"{shown(folder)} has none of {' and '.join(WEIGHTS[::2])}")


def from_file(path: Path) -> tuple[VisionTransformer, Preprocessing, dict[str, Any]]:
    """A model in a file of ours, or in one of any of the four layouts; and what ours says more.

    What tensors of others do not tell is read from `config.json` and `preprocessor_config.json`
    beside the file, as timm and Hugging Face write them; without those files the library's
    defaults hold.
    """
    if not is_ours(path):
        return *from_others(unwrapped(read_tensors(path)[0]), path), {}
    model, more = checkpoint.load(path)
    if "preprocessing" not in more:
        raise ValueError("it does not say how its images are prepared")
    return model, more["preprocessing"], more


def from_others(tensors: dict[str, Any], path: Path) -> Prepared:
    """A model from tensors in one of the four layouts, and from the JSON files beside `path`."""
    origin = recognise(tensors).library
    card = read_json(path.with_name("config.json")) if origin in ("timm", "huggingface") else {}
    if origin == "timm":
        return timm_prepared(tensors, timm_model(card), card)
    stated = hf_settings(card) if origin == "huggingface" else {}
    model = built(*read_checkpoint(tensors, **stated))
    if origin == "torchvision":
        return model, torchvision_preprocessing(model.config)
    steps = read_json(path.with_name("preprocessor_config.json")) if card else {}
    return model, hf_preprocessing(steps, model.config, card.get("id2label") or ())


def fetch_timm(name: str) -> Prepared:
    """A model of `timm.create_model`, fetched by timm."""
    timm, data = library("timm"), library("timm.data")
    if not timm.is_model_pretrained(name):
        raise unknown("timm model", name, timm.list_pretrained("vit_*"))
    cfg = timm.get_pretrained_cfg(name).to_dict()
    repository = cfg.get("hf_hub_id")
    files = [ADDRESS.format(repository, file) for file in ("config.json", WEIGHTS[0])]
    with fetching(files if repository else [cfg["url"]]):
        theirs = timm.create_model(name, pretrained=True)
    subset = data.infer_imagenet_subset(cfg)
    labels = data.ImageNetInfo(subset).label_descriptions() if subset else ()
    card = cfg | {"global_pool": theirs.global_pool, "label_names": labels}
    return timm_prepared(theirs.state_dict(), theirs, card)


def fetch_torchvision(name: str) -> Prepared:
    """A model of `torchvision.models` with its default weights, fetched by torchvision."""
    models = library("torchvision.models")
    known = models.list_models(include="vit_*")
    if name not in known:
        raise unknown("torchvision model", name, known)
    weights = models.get_model_weights(name).DEFAULT
    cache = f"{Path(torch.hub.get_dir(), 'checkpoints')}, where torchvision looks, or into "
    with fetching([weights.url], cache):
        theirs = models.get_model(name, weights="DEFAULT")
    heads = theirs.encoder.layers[0].num_heads
    model = built(*read_checkpoint(theirs.state_dict(), heads=heads))
    steps, labels = weights.transforms(), class_names(weights.meta["categories"], model.config)
    return model, Preprocessing(
        model.config.height_width, tuple(steps.mean), tuple(steps.std), labels,
        resize=steps.resize_size[0], interpolation=steps.interpolation.value,
    )  # fmt: skip


def fetch_hf(name: str) -> Prepared:
    """A repository on Hugging Face's hub, or a folder that `save_pretrained` wrote."""
    folder, steps = Path(name), ["config.json", "preprocessor_config.json"]
    for weights in () if folder.is_dir() else WEIGHTS:
        hub, files = library("huggingface_hub"), [*steps, weights]
        if weights.endswith(".index.json"):
            files.append(f"{weights.partition('.')[0]}-*")
        with fetching([ADDRESS.format(name, file) for file in files]):
            folder = Path(hub.snapshot_download(name, allow_patterns=files))
        if (folder / weights).is_file():
            break
    path = in_folder(folder)
    with reading(path):
        return from_file(path)[:2]


FETCH = {"timm": fetch_timm, "torchvision": fetch_torchvision, "hf": fetch_hf}


@contextmanager
def fetching(files: list[str], where: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes a ValueError with what to fetch and where to put it.

    Of what the hub does not know, or does not give to everybody, it says no more than that.
    """
    try:
        yield
    except Exception as error:  # every library has its own for a lost network
        kinds = {kind.__name__ for kind in type(error).mro()}
        if kinds & {"RepositoryNotFoundError", "HFValidationError"}:
            raise ValueError(
                f"there is no such model, or access to it is restricted: {error}"
            ) from error
        raise ValueError(
            f"cannot fetch it ({error}). Fetch {' and '.join(files)} on a machine with a "
            f"network; put what you fetched into {where}one folder and give from_checkpoint the "
            f"path of {files[-1].rpartition('/')[2]} in it"
        ) from error


def library(name: str) -> Any:
    """A library that only foreign weights need. Raises ValueError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f'{name} is missing: pip install "vit-tutorial[compare]"') from error


def timm_model(card: dict[str, Any]) -> Any:
    """The module, without weights, that a config.json of timm describes; None without timm."""
    name, stated = card.get("architecture"), card.get("model_args", {})
    if name is None or find_spec("timm") is None:
        return None
    timm = library("timm")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models("vit_*"))
    tell = ("img_size", "patch_size", "embed_dim", "num_heads", "act_layer")
    with torch.device("meta"):
        return timm.create_model(name, **{x: stated[x] for x in tell if x in stated})


def timm_prepared(tensors: dict[str, Any], theirs: Any, card: dict[str, Any]) -> Prepared:
    """A model of timm, from its tensors, its module (if any) and what its config.json says."""
    model = built(*read_checkpoint(tensors, **timm_settings(theirs)))
    token, pool = model.config.pool == "token", card.get("global_pool")
    kind, ours = ("with", "token") if token else ("without", "avg")
    if pool not in (None, ours):  # no tensor tells
        raise ValueError(f"global_pool={pool!r} {kind} a class token: expected {ours!r}")
    cfg = card.get("pretrained_cfg", card)
    return model, timm_preprocessing(cfg, model.config, (cfg | card).get("label_names") or ())


def timm_settings(theirs: Any) -> dict[str, Any]:
    """Size, heads, epsilon and GELU of a model of timm; ValueError if it is not of our kind."""
    if theirs is None:
        return {}
    if type(theirs).__name__ != "VisionTransformer":
        raise ValueError(f"timm's {type(theirs).__name__} is no plain VisionTransformer")
    block, (H, W) = theirs.blocks[0], theirs.patch_embed.img_size
    act = type(block.mlp.act).__name__
    if act not in ("GELU", "GELUTanh"):
        raise ValueError(f"timm's activation {act} is neither the exact nor the tanh GELU")
    size = None if H == W else (H, W)  # of a square the positions tell
    heads, gelu = block.attn.num_heads, "tanh" if act == "GELUTanh" else "exact"
    return {"image_size": size, "heads": heads, "epsilon": block.norm1.eps, "gelu": gelu}


def hf_settings(card: dict[str, Any]) -> dict[str, Any]:
    """Size, heads, epsilon and GELU in Hugging Face's config.json."""
    if not card:
        return {}
    act = stated(card, "hidden_act", str, "gelu")
    if act not in GELU:
        raise unknown("hidden_act", act, GELU)
    size = stated(card, "image_size", int | tuple[int, int], 224)
    return {
        "image_size": tuple(size) if isinstance(size, list) else size,
        "heads": stated(card, "num_attention_heads", int, 12),
        "epsilon": stated(card, "layer_norm_eps", float, None),
        "gelu": GELU[act],
    }


def stated(card: dict[str, Any], name: str, kind: Any, default: Any) -> Any:
    """A field of a JSON file, or what holds without it; ValueError if it is of another type."""
    value = card.get(name, default)
    if name in card and not is_a(value, kind):
        raise ValueError(f"{name} is {value!r}, expected {formatannotation(kind)}")
    return value


def timm_preprocessing(cfg: dict[str, Any], c: ViTConfig, labels: Any) -> Preprocessing:
    """As timm prepares images to evaluate: resized to more than the model's size, then cropped.

    An image is squashed where timm would keep its ratio for an input that is not square.
    """
    cfg = {name: value for name, value in cfg.items() if value is not None}
    mode, share = stated(cfg, "crop_mode", str, "center"), stated(cfg, "crop_pct", float, 0.9)
    if mode not in ("center", "squash"):
        raise ValueError(f"timm's crop_mode {mode!r} is not supported")
    if not 0 < share <= 1:
        raise ValueError(f"timm's crop_pct must lie in (0, 1], got {share}")
    H, W = c.height_width
    larger = floor(H / share), floor(W / share)
    found = (stated(cfg, name, tuple[float, ...], (0.5,)) for name in ("mean", "std"))
    mean, std = (tuple(map(float, x)) * (c.channels if len(x) == 1 else 1) for x in found)
    return Preprocessing(
        (H, W), mean, std, class_names(labels, c),
        resize=larger[0] if mode == "center" and H == W else larger,
        interpolation=stated(cfg, "interpolation", str, "bicubic"),
    )  # fmt: skip


def torchvision_preprocessing(c: ViTConfig) -> Preprocessing:
    """As most of torchvision's ViTs have it: at 224 pixels resized to 256, else to their size."""
    mean, std = IMAGENET if c.channels == 3 else ((0.5,) * c.channels,) * 2
    steps = (256, "bilinear") if c.height_width == (224, 224) else (None, "bicubic")
    return Preprocessing(c.height_width, mean, std, class_names((), c), *steps)


def hf_preprocessing(card: dict[str, Any], c: ViTConfig, labels: Any) -> Preprocessing:
    """As Hugging Face's image processor says; by default squashed, bilinear, to -1..1.

    The paper's authors prepare images in the same way. Pixels that are rescaled by another factor
    than 1/255 have their mean and std divided by it.
    """
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    for step, usual in (steps | {"do_flip_channel_order": False}).items():
        if stated(card, step, bool | None, usual) is (not usual):
            said = str(not usual).lower()
            raise ValueError(f"{step} is {said} in preprocessor_config.json: not supported")
    size, resize = stated_size(card, "size", c), None
    if stated(card, "do_center_crop", bool | None, False):
        size, resize = stated_size(card, "crop_size", c), size
    if size != c.height_width:
        raise ValueError(f"images are prepared at {size}, the model reads {c.height_width}")
    factor = 255 * stated(card, "rescale_factor", float, 1 / 255)
    if factor <= 0:
        raise ValueError(f"rescale_factor must be above 0, got {factor / 255}")
    numbers = (stated(card, f"image_{x}", tuple[float, ...] | None, None) for x in ("mean", "std"))
    mean, std = (tuple(x / factor for x in found or (0.5,) * c.channels) for found in numbers)
    interpolation = Image.Resampling(stated(card, "resample", int, 2)).name.lower()
    return Preprocessing(c.height_width, mean, std, class_names(labels, c), resize, interpolation)


def stated_size(card: dict[str, Any], name: str, c: ViTConfig) -> Any:
    """(height, width), or the length of the shorter side; the model's size if none is stated."""
    size = stated(card, name, int | dict | None, None)
    edges = size if isinstance(size, dict) else {"height": size, "width": size}
    found = edges.get("shortest_edge") or (edges.get("height"), edges.get("width"))
    found = c.height_width if size is None else found
    if not is_a(found, int | tuple[int, int]):
        raise ValueError(f"{name} is {size}: not supported")
    return found


def class_names(labels: Any, c: ViTConfig) -> tuple[str, ...]:
    """Names from a list or from a dict by number; numbers if there is not one for each class."""
    numbers = [str(number) for number in range(c.classes)]
    if isinstance(labels, dict):
        labels = [labels.get(number) for number in numbers] if len(labels) == c.classes else ()
    fit = is_a(labels, tuple[str, ...]) and len(labels) == c.classes
    return tuple(labels if fit else numbers)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if there is none. Raises ValueError if it is damaged."""
    if not path.is_file():
        return {}
    with reading(path):  # a TypeError for JSON that is no object
        return {} | json.loads(path.read_text(encoding="utf-8-sig"))
