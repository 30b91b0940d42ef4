"""Models by name or path: shipped with the package, in a file, or published by another library."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from math import floor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from vit_tutorial.errors import unknown
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.checkpoint import built
from vit_tutorial.weights.layouts import State, read, read_checkpoint, recognise
from vit_tutorial.weights.preprocessing import Preprocessing

Prepared = tuple[VisionTransformer, Preprocessing]
ADDRESS = "https://huggingface.co/{}/resolve/main/{}"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FOREIGN = (".npz", ".pth", ".pt", ".bin")  # files of others, beside their safetensors
GELU = {"gelu": "exact", "gelu_tanh": "tanh", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of its pixels
TIMM: dict[str, Any] = {  # of its ViTs
    "mean": (0.5,), "std": (0.5,), "interpolation": "bicubic", "crop_pct": 0.9,
}  # fmt: skip


def from_checkpoint(name: str | Path) -> Prepared:
    """A model in eval mode on the CPU, and its preprocessing.

    `name` is a shipped model ("mnist"), a file that `save` wrote, a file or folder that another
    library wrote, or what a library calls a model that it fetches itself:
    "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k", "torchvision:vit_b_16",
    "hf:google/vit-base-patch16-224". Raises ValueError for an unknown name, a missing, damaged or
    unsuitable file, and where nothing can be fetched, with what to fetch and where to put it.
    """
    library, _, rest = str(name).partition(":")
    if library in FETCH:
        return FETCH[library](rest)
    if Path(name, "config.json").is_file():
        return fetch_hf(str(name))
    path = find(name)
    if not is_ours(path):
        return from_file(path)
    model, more = checkpoint.load(path)
    if "preprocessing" not in more:
        raise ValueError(f"{path} does not say how its images are prepared")
    return model, more["preprocessing"]


def find(name: str | Path) -> Path:
    """The file of a checkpoint: the path itself, or where a shipped model of that name lies."""
    is_file = Path(name).suffix in (".safetensors", *FOREIGN) or Path(name).is_file()
    return Path(name) if is_file else checkpoint.pretrained_path(str(name))


def is_ours(path: Path) -> bool:
    """Whether `checkpoint.load` is to read a file, or say what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format")).startswith("vit_tutorial")
    except (SafetensorError, OSError):
        return path.suffix not in FOREIGN


def seed_of(name: str | Path) -> int:
    """The seed that a model's data were split with; 0 for the weights of others."""
    path = Path(name) if Path(name).is_file() else checkpoint.PRETRAINED / f"{name}.safetensors"
    return checkpoint.load(path)[1].get("seed", 0) if path.is_file() and is_ours(path) else 0


def from_file(path: Path) -> Prepared:
    """A model in a file of any of the four layouts.

    What its tensors do not tell is read from `config.json` and `preprocessor_config.json` beside
    it, as timm and Hugging Face write them; without those files the library's defaults hold.
    """
    tensors = read(path)
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
    with fetching(f"timm:{name}", files if repository else [cfg["url"]]):
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
    with fetching(f"torchvision:{name}", [weights.url], cache):
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
    for weights in WEIGHTS:
        if not Path(name).is_dir():
            hub, files = library("huggingface_hub"), [*steps, weights]
            with fetching(f"hf:{name}", [ADDRESS.format(name, file) for file in files]):
                folder = Path(hub.snapshot_download(name, allow_patterns=files))
        if (folder / weights).is_file():
            return from_file(folder / weights)
    raise ValueError(f"{name} has none of {' and '.join(WEIGHTS)}")


FETCH = {"timm": fetch_timm, "torchvision": fetch_torchvision, "hf": fetch_hf}


@contextmanager
def fetching(name: str, files: list[str], where: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes a ValueError with what to fetch and where to put it."""
    try:
        yield
    except Exception as error:  # every library has its own for a lost network
        raise ValueError(
            f"cannot fetch {name} ({error}). Fetch {' and '.join(files)} on a machine with a "
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


def timm_prepared(tensors: State, theirs: Any, card: dict[str, Any]) -> Prepared:
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
    act, size = card.get("hidden_act", "gelu"), card.get("image_size", 224)
    if act not in GELU:
        raise unknown("hidden_act", act, GELU)
    size = tuple(size) if isinstance(size, list) else size
    heads, epsilon = card.get("num_attention_heads", 12), card.get("layer_norm_eps")
    return {"image_size": size, "heads": heads, "epsilon": epsilon, "gelu": GELU[act]}


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
    mean, std = IMAGENET if c.channels == 3 else ((0.5,) * c.channels,) * 2
    steps = (256, "bilinear") if c.height_width == (224, 224) else (None, "bicubic")
    return Preprocessing(c.height_width, mean, std, class_names((), c), *steps)


def hf_preprocessing(steps: dict[str, Any], c: ViTConfig, labels: Any) -> Preprocessing:
    """As Hugging Face's image processor says; by default squashed, bilinear, to -1..1.

    The paper's authors prepare images in the same way.
    """
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not steps.get(step, True):
            raise ValueError(f"{step} is false in preprocessor_config.json: not supported")
    size, resize = steps.get("size"), None
    if steps.get("do_center_crop"):
        edges: Any = size if isinstance(size, dict) else {"height": size, "width": size}
        resize = edges.get("shortest_edge") or (edges["height"], edges["width"])
    mean, std = (tuple(steps.get(f"image_{x}") or (0.5,) * c.channels) for x in ("mean", "std"))
    interpolation = Image.Resampling(steps.get("resample", 2)).name.lower()
    return Preprocessing(c.height_width, mean, std, class_names(labels, c), resize, interpolation)


def class_names(labels: Any, c: ViTConfig) -> tuple[str, ...]:
    """Names from a list or from a dict by number; numbers if there is not one for each class."""
    if isinstance(labels, dict):
        labels = [labels[number] for number in sorted(labels, key=int)]
    return tuple(labels if len(labels) == c.classes else map(str, range(c.classes)))


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if there is none. Raises ValueError if it is damaged."""
    try:  # a TypeError for JSON that is no object
        return {} | json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
