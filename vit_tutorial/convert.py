"""Weights of other people's Vision Transformers as ours, tensor by tensor, and back to timm's.

    config, state = read_checkpoint(source)  # a dict of tensors, or a file
    model = VisionTransformer(config)
    model.load_state_dict(state)

Every tensor is used once: one that is missing, surplus or misshapen is a ValueError that names it
as its checkpoint does. Only the pooler of Hugging Face's `ViTModel` (`pooler.dense`) is left out on
purpose: our features are what it reads, `last_hidden_state[:, 0]`. Bits are kept, but float16 and
bfloat16 become float32. Files are read without unpickling anything.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch
from einops import EinopsError, parse_shape, rearrange
from safetensors.torch import load_file
from torch import Tensor

from vit_tutorial.model import VisionTransformer, ViTConfig

State = dict[str, Tensor]
Source = Mapping[str, Any] | str | Path
Size = int | tuple[int, int] | None
KERNEL = "embedding.patches.projection.weight"
ONE = ViTConfig(1, 1, 1, classes=1, layers=1, hidden_size=1, mlp_size=1, heads=1)


@dataclass(frozen=True, eq=False)  # to be a key of caches
class Layout:
    """How a library names its tensors and orders their axes, and what it takes for granted."""

    library: str
    pieces: dict[str, str]  # of our names, and theirs instead; `{}`: query, key and value apart
    axes: dict[str, str]  # by the end of our name, for those that are not ours already
    always_class_token: bool = False
    epsilon: float = 1e-6
    gelu: str = "exact"
    left_out: str = r"(?!)"  # names that are none of ours; by default nothing matches


CONVOLUTION = {KERNEL: "D C P Q -> D (C P Q)"}
TIMM = Layout(
    "timm",
    {
        "embedding.class_token": "cls_token", "embedding.positions": "pos_embed",
        "embedding.patches.projection.": "patch_embed.proj.", "encoder.blocks.": "blocks.",
        ".attention.qkv.": ".attn.qkv.", ".attention.projection.": ".attn.proj.",
        ".mlp.0.": ".mlp.fc1.", ".mlp.3.": ".mlp.fc2.", "encoder.norm.": "norm.",
    },
    CONVOLUTION,
)  # fmt: skip
TORCHVISION = Layout(
    "torchvision",
    {
        "embedding.class_token": "class_token", "embedding.positions": "encoder.pos_embedding",
        "embedding.patches.projection.": "conv_proj.",
        "encoder.blocks.": "encoder.layers.encoder_layer_", ".norm1.": ".ln_1.",
        ".attention.qkv.": ".self_attention.in_proj_",
        ".attention.projection.": ".self_attention.out_proj.", ".norm2.": ".ln_2.",
        "encoder.norm.": "encoder.ln.",
        "head.0.": "heads.pre_logits.", "head.2.": "heads.head.", "head.": "heads.head.",
    },
    CONVOLUTION, always_class_token=True,
)  # fmt: skip
LINEAR = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}  # in its files of 2021 and 2022
HUGGINGFACE = Layout(
    "huggingface",
    {
        "embedding.class_token": "embeddings.cls_token",
        "embedding.positions": "embeddings.position_embeddings",
        "embedding.patches.projection.": "embeddings.patch_embeddings.projection.",
        "encoder.blocks.": "encoder.layer.", ".norm1.": ".layernorm_before.",
        ".attention.qkv.": ".attention.attention.{}.",
        ".attention.projection.": ".attention.output.dense.", ".norm2.": ".layernorm_after.",
        ".mlp.0.": ".intermediate.dense.", ".mlp.3.": ".output.dense.",
        "encoder.norm.": "layernorm.", "head.": "classifier.",
    },
    CONVOLUTION, always_class_token=True, epsilon=1e-12,
    left_out=r"(vit\.)?pooler\.dense\.(weight|bias)",
)  # fmt: skip
IN_MEMORY = {  # what transformers 5 makes of the names in its files
    "encoder.blocks.": "layers.", ".attention.qkv.": ".attention.{0[0]}_proj.",
    ".attention.projection.": ".attention.o_proj.", ".mlp.0.": ".mlp.fc1.", ".mlp.3.": ".mlp.fc2.",
}  # fmt: skip
DENSE = ("mlp.0", "mlp.3", "head.0", "head.2", "head")
NPZ = Layout(  # https://github.com/google-research/vision_transformer
    "npz",
    {
        "embedding.class_token": "cls",
        "embedding.positions": "Transformer/posembed_input/pos_embedding",
        "embedding.patches.projection.": "embedding/",
        "encoder.blocks.": "Transformer/encoderblock_",
        ".norm1.weight": "/LayerNorm_0/scale", ".norm1.": "/LayerNorm_0/",
        ".attention.qkv.": "/MultiHeadDotProductAttention_1/{}/",
        ".attention.projection.": "/MultiHeadDotProductAttention_1/out/",
        ".norm2.weight": "/LayerNorm_2/scale", ".norm2.": "/LayerNorm_2/",
        ".mlp.0.": "/MlpBlock_3/Dense_0/", ".mlp.3.": "/MlpBlock_3/Dense_1/",
        "encoder.norm.weight": "Transformer/encoder_norm/scale",
        "encoder.norm.": "Transformer/encoder_norm/",
        "head.0.": "pre_logits/", "head.2.": "head/", "head.": "head/", "weight": "kernel",
    },
    {
        KERNEL: "P Q C D -> D (C P Q)",
        "qkv.weight": "D h d -> (h d) D", "qkv.bias": "h d -> (h d)",
        "attention.projection.weight": "h d D -> D (h d)",
        **{f"{name}.weight": "i o -> o i" for name in DENSE},
    },
    gelu="tanh",
)  # fmt: skip
OURS = Layout("ours", {name: name for name in ("encoder.blocks.", "head.0.", "head.")}, CONVOLUTION)


def spoken(layout: Layout, more: dict[str, str], vit: str = "") -> Layout:
    """A dialect: some names are others, and all but the head's are inside of `vit`."""
    pieces = {**layout.pieces, **more}
    pieces |= {ours: vit + name for ours, name in pieces.items() if ours.startswith("e")}
    return replace(layout, pieces=pieces)


LAYOUTS = [TIMM, TORCHVISION, spoken(TORCHVISION, LINEAR), NPZ]
LAYOUTS += [spoken(HUGGINGFACE, more, vit) for more in ({}, IN_MEMORY) for vit in ("vit.", "")]


def from_timm(source: Source, image_size: Size = None) -> State:
    """timm's `VisionTransformer` with a class token, or without and `fc_norm=False`.

    No tensor tells rows from columns: an `image_size` is only held against the positions.
    """
    return converted(source, image_size, "timm")[2]


def from_torchvision(source: Source, image_size: Size = None) -> State:
    """torchvision's `vit_b_16` and its like, with or without `heads`."""
    return converted(source, image_size, "torchvision")[2]


def from_huggingface(source: Source, image_size: Size = None) -> State:
    """`ViTForImageClassification` or `ViTModel`, named as in files or as in transformers 5."""
    return converted(source, image_size, "huggingface")[2]


def from_npz(source: Source, image_size: Size = None) -> State:
    """The authors' arrays, with or without `pre_logits`."""
    return converted(source, image_size, "npz")[2]


def to_timm(state: Source, image_size: Size = None, channels: int | None = None) -> State:
    """Our state dict as timm's; `from_timm` gives back the same bits.

    The projection does not tell how many `channels` a patch has: unless stated 3, or else 1.
    Raises ValueError for what timm does not have: a layer before the head, fixed positions.
    """
    tensors = read(state)
    if KERNEL in tensors:
        tensors[KERNEL] = unflatten(tensors[KERNEL], channels)
    if convert(tensors, OURS, image_size)[0].representation_size:
        raise ValueError("timm has no layer before the head for head.0.weight and head.0.bias")
    return {names(name, TIMM)[0]: tensor for name, tensor in tensors.items()}


def read_checkpoint(
    source: Source,
    image_size: Size = None,
    heads: int | None = None,
    epsilon: float | None = None,
    gelu: str | None = None,
) -> tuple[ViTConfig, State]:
    """Config and state dict of a checkpoint in any of the four layouts.

    State what its tensors do not tell. Unless stated, images are square, heads are those of the
    published models, epsilon and GELU are the library's own: 1e-6 and exact, but 1e-12 for
    Hugging Face and the tanh approximation for npz.
    """
    layout, config, state = converted(source, image_size)
    config = with_grid(config, image_size, layout)
    if heads is None:
        heads = config.heads if layout is NPZ else published_heads(config.hidden_size)
    epsilon = layout.epsilon if epsilon is None else epsilon
    return replace(config, heads=heads, epsilon=epsilon, gelu=gelu or layout.gelu), state


def published_heads(D: int) -> int:
    """Heads of 64 numbers as in Ti, S, B and L, but 16 heads in H and its wider kin."""
    if D in (1152, 1280, 1408, 1536, 1664):  # So400M, H, g, g-opt, G
        return 16
    if D % 64:
        raise ValueError(f"no tensor tells the heads, and 64 does not divide {D}: state heads")
    return D // 64


def converted(
    source: Source, image_size: Size = None, library: str | None = None
) -> tuple[Layout, ViTConfig, State]:
    """Their layout, and what `convert` makes of it."""
    tensors = read(source)
    layout = recognise(tensors, library)
    return layout, *convert(tensors, layout, image_size)


def recognise(tensors: State, library: str | None = None) -> Layout:
    """The layout, of one library or of all, that explains the most names."""
    known = [layout for layout in LAYOUTS if library in (None, layout.library)]
    wanted = [{name for ours in shapes(ONE) for name in names(ours, layout)} for layout in known]
    explained = [len(some & set(tensors)) for some in wanted]
    if not any(explained):
        raise ValueError(f"not the tensors of {library or 'a known layout'}: {listed(tensors)}")
    return known[explained.index(max(explained))]


@cache
def names(ours: str, layout: Layout) -> tuple[str, ...]:
    """What the layout calls a tensor of ours: one name, or those of query, key and value."""
    pattern = "|".join(map(re.escape, layout.pieces))
    theirs = re.sub(pattern, lambda found: layout.pieces[found[0]], ours)
    return tuple(dict.fromkeys(theirs.format(part) for part in ("query", "key", "value")))


def outline(tensors: Iterable[str], layout: Layout) -> ViTConfig:
    """A model with the blocks, class token and head that the names tell, and every size 1."""
    starts = ("encoder.blocks.", "embedding.class_token", "head.", "head.0.")
    block, token, head, hidden = (names(start, layout)[0] for start in starts)
    there = {x for x in (token, head, hidden) if any(name.startswith(x) for name in tensors)}
    numbers = re.findall(rf"^{re.escape(block)}(\d+)", "\n".join(tensors), flags=re.MULTILINE)
    deep = hidden in there and "head.0." in layout.pieces
    return replace(
        ONE, classes=int(deep or head in there), layers=max(1, len(set(numbers))),
        pool="token" if layout.always_class_token or token in there else "mean",
        representation_size=1 if deep else None,
    )  # fmt: skip


@lru_cache(maxsize=16)
def shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of our model's tensors, by name; they take no memory."""
    with torch.device("meta"):
        model = VisionTransformer(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def expected(tensors: Iterable[str], layout: Layout) -> dict[str, tuple[str, ...]]:
    """By our names, those that a checkpoint of this layout has to hold."""
    return {ours: names(ours, layout) for ours in shapes(outline(tensors, layout))}


def convert(tensors: State, layout: Layout, size: Size = None) -> tuple[ViTConfig, State]:
    """Config and tensors, checked one by one; heads are 1 if unknown, all patches are in a row."""
    tensors = {n: t for n, t in tensors.items() if not re.fullmatch(layout.left_out, n)}
    theirs = expected(tensors, layout)
    wanted = set().union(*theirs.values())
    missing, surplus = wanted - set(tensors), set(tensors) - wanted
    if missing or surplus:
        raise ValueError(f"missing tensors: {listed(missing)}; surplus: {listed(surplus)}")
    query = tensors[theirs["encoder.blocks.0.attention.qkv.weight"][0]]
    h = query.shape[1] if layout is NPZ and query.ndim > 1 else 1
    state = {ours: joined(ours, theirs[ours], tensors, layout, h) for ours in theirs}
    kernel = parse_shape(tensors[theirs[KERNEL][0]], layout.axes[KERNEL].split(" ->")[0])
    config = measured(outline(tensors, layout), state, kernel["C"], kernel["P"], h)
    for ours, shape in shapes(config).items():
        if state[ours].shape != shape:
            module = ours.rpartition(".")[0] + "."  # weight and bias: either may be the wrong one
            given = [name for o in theirs if o.startswith(module) for name in theirs[o]]
            raise misshapen(given, tensors, f"{shape} in our {ours}")
    N = config.grid[1]
    if size is not None or (config.pool == "mean" and square(N - 1) and not square(N)):
        with_grid(config, size, layout)  # where a class token seems to be lost, the size says
    return config, state


def square(N: int) -> bool:
    """Whether N patches can be as many rows as columns."""
    return math.isqrt(N) ** 2 == N


def joined(ours: str, theirs: tuple[str, ...], tensors: State, layout: Layout, h: int) -> Tensor:
    """Their tensors, all of one shape, with our axes, one below the other."""
    parts = [tensors[name] for name in theirs]
    axes = next((axes for end, axes in layout.axes.items() if ours.endswith(end)), "... -> ...")
    try:
        parts = [rearrange(part, axes, **({"h": h} if "(h d)" in axes else {})) for part in parts]
    except EinopsError as error:
        raise misshapen(theirs, tensors, f"axes {axes.split(' ->')[0]}") from error
    if not parts[0].ndim or any(part.shape != parts[0].shape for part in parts):
        raise misshapen(theirs, tensors, "tensors of one shape")
    return torch.cat(parts).contiguous()


def measured(c: ViTConfig, state: State, C: int, P: int, h: int) -> ViTConfig:
    """The outline with its sizes; D is what most axes measure."""
    D = mode(size for tensor in state.values() for size in tensor.shape)
    last = "head.2.bias" if c.representation_size else "head.bias"
    N = state["embedding.positions"].numel() // D - (c.pool == "token")
    return replace(
        c, image_size=(P, P * max(1, N)), patch_size=P, channels=C, hidden_size=D, heads=h,
        mlp_size=state["encoder.blocks.0.mlp.0.bias"].numel(),
        classes=c.classes and state[last].numel(),
        representation_size=c.representation_size and state["head.0.bias"].numel(),
    )  # fmt: skip


def with_grid(c: ViTConfig, image_size: Size, layout: Layout) -> ViTConfig:
    """The config with rows and columns: those stated, or as many of one as of the other."""
    table, token = (names(f"embedding.{x}", layout)[0] for x in ("positions", "class_token"))
    N = c.grid[1]
    held = f"{table} has {N} patches {'and' if c.pool == 'token' else 'without'} {token}"
    if image_size is None and not square(N):
        raise ValueError(f"{held}: no square, so state image_size=(H, W)")
    c = replace(c, image_size=image_size or math.isqrt(N) * c.patch_size)
    rows, cols = c.grid
    if rows * cols != N:
        raise ValueError(f"{held}: image_size {image_size} makes {rows} x {cols}")
    return c


def unflatten(weight: Tensor, channels: int | None) -> Tensor:
    """The kernel (D C P P) of a projection (D C*P*P)."""
    size = weight.shape[1:].numel()
    for C in [channels] if channels else [3, 1]:
        P = math.isqrt(size // C)
        if weight.ndim == 2 and size == C * P**2:
            return weight.unflatten(1, (C, P, P))
    found = f"{channels or '3 or 1'} channels"
    raise ValueError(f"{KERNEL} {tuple(weight.shape)} has no square patches of {found}")


def read(source: Source) -> State:
    """The tensors of a dict or file; ValueError for what is no array of floats."""
    found = source if isinstance(source, Mapping) else read_file(Path(source))
    if isinstance(found, Mapping) and len(found) == 1:  # {"model": {...}}
        found = next((inner for inner in found.values() if isinstance(inner, Mapping)), found)
    if not isinstance(found, Mapping):
        raise ValueError(f"{source} holds no dict of tensors, but a {type(found).__name__}")
    return {name: floats(name, value) for name, value in found.items()}


def read_file(path: Path) -> Any:
    """What a safetensors, npz or PyTorch file holds; ValueError if that needs unpickling."""
    if not path.is_file():
        raise ValueError(f"no such checkpoint: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            return dict(np.load(path, allow_pickle=False))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(f"{path} does not load as plain tensors: {error}") from error


def floats(name: str, value: Any) -> Tensor:
    """A tensor of float32 or float64."""
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no tensor: {error}") from error
    if not tensor.is_floating_point():
        raise ValueError(f"{name} holds {tensor.dtype}, expected floating-point numbers")
    return tensor.float() if tensor.itemsize < 4 else tensor


def listed(found: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    found = sorted(found)
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return (", ".join(found[:8]) or "none") + more


def misshapen(found: Iterable[str], tensors: State, fit: str) -> ValueError:
    """An error that names tensors with their shapes, to be raised."""
    shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in found)
    return ValueError(f"misshapen tensors: {shapes}; expected {fit}")
