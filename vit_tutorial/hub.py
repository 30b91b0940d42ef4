"""Published weights, with the preprocessing that belongs to them.

`VisionTransformer.from_checkpoint` comes here for names as `timm:vit_tiny_patch16_224`,
`torchvision:vit_b_16` and `hf:google/vit-base-patch16-224`, and for files that are not ours.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from math import floor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vit_tutorial import convert
from vit_tutorial.checkpoint import Preprocessing
from vit_tutorial.errors import unknown
from vit_tutorial.model import VisionTransformer, ViTConfig

Prepared = tuple[VisionTransformer, Preprocessing]
ADDRESS = "https://huggingface.co/{}/resolve/main/{}"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
GELU = {"gelu": "exact", "gelu_tanh": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its pixels
TIMM: dict[str, Any] = {  # of its ViTs
    "mean": (0.5,), "std": (0.5,), "interpolation": "bicubic", "crop_pct": 0.9,
}  # fmt: skip


def fetch_timm(name: str) -> Prepared:
    """A model of `timm.create_model`, fetched by timm."""
    timm, data = library("timm"), library("timm.data")
    if not timm.is_model_pretrained(name):
        raise unknown("timm model", name, timm.list_pretrained("vit_*"))
    cfg = timm.get_pretrained_cfg(name)
    try:
        theirs = timm.create_model(name, pretrained=True)
    except Exception as error:  # every library has its own for a lost network
        files = [ADDRESS.format(cfg.hf_hub_id, file) for file in ("config.json", WEIGHTS[0])]
        files = files if cfg.hf_hub_id else [cfg.url]
        raise offline(f"timm:{name}", files, error) from error
    model = built(*convert.read_checkpoint(theirs.state_dict(), **timm_settings(theirs)))
    check_pool(theirs.global_pool, model.config)
    subset = data.infer_imagenet_subset(theirs)
    labels = data.ImageNetInfo(subset).label_descriptions() if subset else ()
    cfg = data.resolve_model_data_config(theirs)
    return model, timm_preprocessing(cfg, model.config, labels)


def fetch_torchvision(name: str) -> Prepared:
    """A model of `torchvision.models` with its default weights, fetched by torchvision."""
    models = library("torchvision.models")
    known = models.list_models(include="vit_*")
    if name not in known:
        raise unknown("torchvision model", name, known)
    weights = models.get_model_weights(name).DEFAULT
    try:
        theirs = models.get_model(name, weights="DEFAULT")
    except Exception as error:
        cache = f"{Path(torch.hub.get_dir(), 'checkpoints')}, where torchvision looks, or into "
        raise offline(f"torchvision:{name}", [weights.url], error, cache) from error
    heads, norm = theirs.encoder.layers[0].num_heads, theirs.encoder.ln
    tensors = theirs.state_dict()
    model = built(*convert.read_checkpoint(tensors, heads=heads, epsilon=norm.eps))
    steps, labels = weights.transforms(), class_names(weights.meta["categories"], model.config)
    return model, Preprocessing(
        model.config.height_width, tuple(steps.mean), tuple(steps.std), labels,
        resize=steps.resize_size[0], interpolation=steps.interpolation.value,
    )  # fmt: skip


def fetch_hf(name: str) -> Prepared:
    """A repository on Hugging Face's hub, or a folder that `save_pretrained` wrote."""
    folder = Path(name)
    if not folder.is_dir():
        hub = library("huggingface_hub")
        try:
            for weights in WEIGHTS:
                files = ["config.json", "preprocessor_config.json", weights]
                folder = Path(hub.snapshot_download(name, allow_patterns=files))
                if (folder / weights).is_file():
                    break
        except Exception as error:
            files = [ADDRESS.format(name, file) for file in files]
            raise offline(f"hf:{name}", files, error) from error
    found = [folder / weights for weights in WEIGHTS if (folder / weights).is_file()]
    if not found:
        raise ValueError(f"{name} has none of {' and '.join(WEIGHTS)}")
    return from_file(found[0])


FETCH = {"timm": fetch_timm, "torchvision": fetch_torchvision, "hf": fetch_hf}


def from_file(path: Path) -> Prepared:
    """A model in a file of any of the four layouts.

    What its tensors do not tell is read from `config.json` and `preprocessor_config.json` beside
    it, as timm and Hugging Face write them; else the library's defaults hold.
    """
    tensors = convert.read(path)
    origin = convert.recognise(tensors).library
    card = read_json(path.with_name("config.json")) if origin in ("timm", "huggingface") else {}
    if origin == "timm":
        cfg = card.get("pretrained_cfg", card)
        model = built(*convert.read_checkpoint(tensors, **timm_card_settings(card)))
        check_pool(card.get("global_pool"), model.config)
        return model, timm_preprocessing(cfg, model.config, (cfg | card).get("label_names") or ())
    stated = hf_settings(card) if origin == "huggingface" else {}
    model = built(*convert.read_checkpoint(tensors, **stated))
    if origin == "torchvision":
        return model, torchvision_preprocessing(model.config)
    steps = read_json(path.with_name("preprocessor_config.json")) if card else {}
    return model, hf_preprocessing(steps, model.config, card.get("id2label") or ())


def built(config: ViTConfig, state: convert.State) -> VisionTransformer:
    """The model in eval mode, in the checkpoint's precision."""
    with torch.device("meta"):
        model = VisionTransformer(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


def timm_settings(theirs: Any) -> dict[str, Any]:
    """Size, heads, epsilon and GELU of a model of timm; ValueError if it is not of our kind."""
    if type(theirs).__name__ != "VisionTransformer":
        raise ValueError(f"timm's {type(theirs).__name__} is no plain VisionTransformer")
    block = theirs.blocks[0]
    act = type(block.mlp.act).__name__
    if act not in ("GELU", "GELUTanh"):
        raise ValueError(f"timm's activation {act} is neither the exact nor the tanh GELU")
    gelu = "tanh" if act == "GELUTanh" else "exact"
    heads, epsilon = block.attn.num_heads, block.norm1.eps
    size = tuple(theirs.patch_embed.img_size)
    return {"image_size": size, "heads": heads, "epsilon": epsilon, "gelu": gelu}


def timm_card_settings(card: dict[str, Any]) -> dict[str, Any]:
    """The same for timm's config.json, asked of timm; nothing where timm is missing."""
    name, stated = card.get("architecture"), card.get("model_args", {})
    try:
        timm = import_module("timm")
    except ImportError:
        return {}
    if name is None:
        return {}
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models("vit_*"))
    tell = ("img_size", "patch_size", "embed_dim", "num_heads", "act_layer")
    with torch.device("meta"):
        theirs = timm.create_model(name, **{x: stated[x] for x in tell if x in stated})
    settings = timm_settings(theirs)
    H, W = settings["image_size"]
    return settings | ({"image_size": None} if H == W else {})  # its positions tell


def hf_settings(card: dict[str, Any]) -> dict[str, Any]:
    """Size, heads, epsilon and GELU in Hugging Face's config.json."""
    if not card:
        return {}
    act, size = card.get("hidden_act", "gelu"), card.get("image_size", 224)
    if act not in GELU:
        raise unknown("hidden_act", act, GELU)
    return {
        "image_size": tuple(size) if isinstance(size, list) else size,
        "heads": card.get("num_attention_heads", 12),
        "epsilon": card.get("layer_norm_eps"),
        "gelu": GELU[act],
    }


def check_pool(pool: str | None, c: ViTConfig) -> None:
    """Raise ValueError where timm's global_pool is not ours; no tensor tells."""
    ours = "token" if c.pool == "token" else "avg"
    if pool not in (None, ours):
        token = "with" if c.pool == "token" else "without"
        raise ValueError(f"global_pool={pool!r} {token} a class token: expected {ours!r}")


def timm_preprocessing(cfg: Mapping[str, Any], c: ViTConfig, labels: Any) -> Preprocessing:
    """As timm prepares images to evaluate: resized to more than the model's size, then cropped.

    An image is squashed where timm would keep its ratio for an input that is not square.
    """
    cfg = TIMM | {name: value for name, value in cfg.items() if value is not None}
    mode, (H, W) = cfg.get("crop_mode", "center"), c.height_width
    if mode not in ("center", "squash"):
        raise ValueError(f"timm's crop_mode {mode!r} is not supported")
    larger = floor(H / cfg["crop_pct"]), floor(W / cfg["crop_pct"])
    resize = larger[0] if mode == "center" and H == W else larger
    mean, std = (tuple(cfg[x]) * (c.channels if len(cfg[x]) == 1 else 1) for x in ("mean", "std"))
    names = class_names(labels, c)
    return Preprocessing((H, W), mean, std, names, resize, cfg["interpolation"])


def torchvision_preprocessing(c: ViTConfig) -> Preprocessing:
    """As most of torchvision's ViTs have it: at 224 pixels resized to 256, else to their size."""
    H, W = c.height_width
    mean, std = IMAGENET if c.channels == 3 else ((0.5,) * c.channels,) * 2
    resize, interpolation = (256, "bilinear") if H == W == 224 else (None, "bicubic")
    return Preprocessing((H, W), mean, std, class_names((), c), resize, interpolation)


def hf_preprocessing(steps: dict[str, Any], c: ViTConfig, labels: Any) -> Preprocessing:
    """As Hugging Face's image processor says, or as it is by default: squashed, bilinear, -1..1.

    The authors prepare images in the same way.
    """
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not steps.get(step, True):
            raise ValueError(f"{step} is false in preprocessor_config.json: not supported")
    size: Any = steps.get("size")
    resize = None
    if steps.get("do_center_crop"):
        edges = size if isinstance(size, dict) else {"height": size, "width": size}
        resize = edges.get("shortest_edge") or (edges["height"], edges["width"])
    half = (0.5,) * c.channels
    mean, std = (tuple(steps.get(f"image_{x}") or half) for x in ("mean", "std"))
    interpolation = Image.Resampling(steps.get("resample", 2)).name.lower()
    return Preprocessing(c.height_width, mean, std, class_names(labels, c), resize, interpolation)


def class_names(labels: Any, c: ViTConfig) -> tuple[str, ...]:
    """Names from a list or from a dict by number; numbers if there is not one for each class."""
    if isinstance(labels, dict):
        labels = [labels[number] for number in sorted(labels, key=int)]
    return tuple(labels if len(labels) == c.classes else map(str, range(c.classes)))


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(found).__name__}")
    return found


def library(name: str) -> Any:
    """A library that only foreign weights need."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f'{name} is missing: pip install "vit-tutorial[compare]"') from error


def offline(name: str, files: Sequence[str], error: Exception, where: str = "") -> ValueError:
    """An error that says what to fetch by other means and where to put it, to be raised."""
    return ValueError(
        f"cannot fetch {name} ({error}). Fetch {' and '.join(files)} on a machine with a network; "
        f"put what you fetched into {where}one folder and give from_checkpoint the path of "
        f"{files[-1].rpartition('/')[2]} in it"
    )
