"""Weights of other libraries in our layout, tensor by tensor, and ours in that of timm.

    config, state = read_checkpoint(source)  # a dict of tensors, or a file
    model = VisionTransformer(config)
    model.load_state_dict(state)

A `source` is a dict of tensors or arrays, or a file that `files.read_tensors` reads. Every tensor
is used exactly once: a ValueError names those that are missing, surplus or of another shape as the
source does. Only the pooler of Hugging Face's `ViTModel` is left out: our features are what it
reads. Values keep their bits, but float16 and bfloat16 become float32.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch
from einops import EinopsError, parse_shape, rearrange
from torch import Tensor

from vit_tutorial.errors import shown
from vit_tutorial.model import ViTConfig
from vit_tutorial.weights.checkpoint import shapes
from vit_tutorial.weights.files import check_numbers, listed, read_tensors, reading, unwrapped

State = dict[str, Tensor]
Source = Mapping[str, Any] | str | Path
Size = int | tuple[int, int] | None
KERNEL = "embedding.patches.projection.weight"
ONE = ViTConfig(1, 1, 1, classes=1, layers=1, hidden_size=1, mlp_size=1, heads=1)

# Parts of our tensors' names, then the same parts in other libraries, in the same order. "-": the
# library has no such part. Braces: it has one tensor each for query, key and value, where we have
# one for all three.
OUR_NAMES = """
    embedding.class_token  embedding.positions  embedding.patches.projection.
    encoder.blocks.  .norm1.  .attention.qkv.  .attention.projection.
    .norm2.  .mlp.0.  .mlp.3.  encoder.norm.  head.0.  head.2.  head."""
TIMM_NAMES = """
    cls_token  pos_embed  patch_embed.proj.
    blocks.  .norm1.  .attn.qkv.  .attn.proj.
    .norm2.  .mlp.fc1.  .mlp.fc2.  norm.  -  -  head."""
TORCHVISION_NAMES = """
    class_token  encoder.pos_embedding  conv_proj.
    encoder.layers.encoder_layer_  .ln_1.  .self_attention.in_proj_  .self_attention.out_proj.
    .ln_2.  .mlp.0.  .mlp.3.  encoder.ln.  heads.pre_logits.  heads.head.  heads.head."""
TORCHVISION_FILES = TORCHVISION_NAMES.replace(".0.", ".linear_1.").replace(".3.", ".linear_2.")
HUGGINGFACE_FILES = """
    embeddings.cls_token  embeddings.position_embeddings  embeddings.patch_embeddings.projection.
    encoder.layer.  .layernorm_before.  .attention.attention.{}.  .attention.output.dense.
    .layernorm_after.  .intermediate.dense.  .output.dense.  layernorm.  -  -  classifier."""
TRANSFORMERS_5 = """
    embeddings.cls_token  embeddings.position_embeddings  embeddings.patch_embeddings.projection.
    layers.  .layernorm_before.  .attention.{0[0]}_proj.  .attention.o_proj.
    .layernorm_after.  .mlp.fc1.  .mlp.fc2.  layernorm.  -  -  classifier."""
NPZ_NAMES = """
    cls  Transformer/posembed_input/pos_embedding  embedding/  Transformer/encoderblock_
    /LayerNorm_0/  /MultiHeadDotProductAttention_1/{}/  /MultiHeadDotProductAttention_1/out/
    /LayerNorm_2/  /MlpBlock_3/Dense_0/  /MlpBlock_3/Dense_1/
    Transformer/encoder_norm/  pre_logits/  head/  head/"""


def pieces(names: str, prefix: str = "") -> dict[str, str]:
    """Pieces of our names, and theirs instead; `prefix` goes before all but the head's."""
    pairs = zip(OUR_NAMES.split(), names.split(), strict=True)
    return {our: prefix * our.startswith("e") + their for our, their in pairs if their != "-"}


@dataclass(frozen=True, eq=False)  # to be a key of caches
class Layout:
    """How a library names its tensors and orders their axes, and its defaults."""

    library: str
    pieces: dict[str, str]
    axes: dict[str, str] = field(default_factory=lambda: {KERNEL: "D C P Q -> D (C P Q)"})
    always_class_token: bool = False
    epsilon: float = 1e-6
    gelu: str = "exact"
    left_out: str = r"(?!)"  # names that are none of ours; by default nothing matches


OURS, TIMM = Layout("ours", pieces(OUR_NAMES)), Layout("timm", pieces(TIMM_NAMES))
NPZ = Layout(  # https://github.com/google-research/vision_transformer
    "npz",
    {
        ".norm1.weight": "/LayerNorm_0/scale", ".norm2.weight": "/LayerNorm_2/scale",
        "encoder.norm.weight": "Transformer/encoder_norm/scale", "weight": "kernel",
        **pieces(NPZ_NAMES),
    },
    {
        KERNEL: "P Q C D -> D (C P Q)",
        "qkv.weight": "D h d -> (h d) D", "qkv.bias": "h d -> (h d)",
        "attention.projection.weight": "h d D -> D (h d)",
        **{f"{x}.weight": "i o -> o i" for x in ("mlp.0", "mlp.3", "head.0", "head.2", "head")},
    },
    gelu="tanh",
)  # fmt: skip
LAYOUTS = [TIMM, NPZ]
LAYOUTS += [
    Layout("torchvision", pieces(names), always_class_token=True)
    for names in (TORCHVISION_NAMES, TORCHVISION_FILES)
]
LAYOUTS += [
    Layout(
        "huggingface", pieces(names, prefix), always_class_token=True, epsilon=1e-12,
        left_out=r"(vit\.)?pooler\.dense\.(weight|bias)",
    )
    for names in (HUGGINGFACE_FILES, TRANSFORMERS_5) for prefix in ("vit.", "")
]  # fmt: skip


def from_timm(source: Source, image_size: Size = None) -> State:
    """The state dict of timm's `VisionTransformer` as ours; mean-pooled only without `fc_norm`."""
    return converted(source, image_size, "timm")[2]


def from_torchvision(source: Source, image_size: Size = None) -> State:
    """The state dict of torchvision's `vit_b_16` and its like, with or without `heads`, as ours."""
    return converted(source, image_size, "torchvision")[2]


def from_huggingface(source: Source, image_size: Size = None) -> State:
    """The state dict of `ViTForImageClassification` or `ViTModel` as ours."""
    return converted(source, image_size, "huggingface")[2]


def from_npz(source: Source, image_size: Size = None) -> State:
    """The arrays of the paper's authors, with or without `pre_logits`, as our state dict."""
    return converted(source, image_size, "npz")[2]


def to_timm(state: Source, image_size: Size = None, channels: int | None = None) -> State:
    """Our state dict in timm's layout; `from_timm` gives back the same bits.

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
    source: Source, image_size: Size = None, heads: int | None = None,
    epsilon: float | None = None, gelu: str | None = None,
) -> tuple[ViTConfig, State]:  # fmt: skip
    """The configuration and our state dict of a checkpoint in any of the four layouts.

    State what its tensors do not tell. Unless stated, images are square, heads are those of the
    published models, epsilon and GELU are the library's own: 1e-6 and exact, but 1e-12 for
    Hugging Face and the tanh approximation for npz. Raises ValueError for tensors of no known
    layout, and where they and what is stated do not fit together.
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
    """The layout of a source, and what `convert` makes of it."""
    tensors = read(source)
    layout = recognise(tensors, library)
    return layout, *convert(tensors, layout, image_size)


def recognise(tensors: Iterable[str], library: str | None = None) -> Layout:
    """The layout, of one library or of all, that explains the most names."""
    known = [layout for layout in LAYOUTS if library in (None, layout.library)]
    wanted = [{name for our in shapes(ONE) for name in names(our, layout)} for layout in known]
    explained = [len(some & set(tensors)) for some in wanted]
    if set(shapes(ONE)) <= set(tensors):
        raise ValueError("tensors of this package without a configuration: use checkpoint.save")
    if not any(explained):
        raise ValueError(f"not the tensors of {library or 'a known layout'}: {listed(tensors)}")
    return known[explained.index(max(explained))]


@cache
def names(our: str, layout: Layout) -> tuple[str, ...]:
    """What a layout calls a tensor of ours: one name, or those of query, key and value."""
    pattern = "|".join(map(re.escape, layout.pieces))
    theirs = re.sub(pattern, lambda found: layout.pieces[found[0]], our)
    return tuple(dict.fromkeys(theirs.format(part) for part in ("query", "key", "value")))


def outline(tensors: Iterable[str], layout: Layout) -> ViTConfig:
    """A model with the blocks, class token and head that the names tell, and every size 1."""
    starts = ("encoder.blocks.", "embedding.class_token", "head.", "head.0.")
    block, token, head, hidden = (names(start, layout)[0] for start in starts)
    there = {x for x in (token, head, hidden) if any(name.startswith(x) for name in tensors)}
    numbers = re.findall(rf"^{re.escape(block)}(\d+)", "\n".join(tensors), flags=re.MULTILINE)
    deep = hidden in there and "head.0." in layout.pieces
    layers = min(len(set(numbers)), len(list(tensors)) // 12)  # a block has twelve tensors or more
    return replace(
        ONE, classes=int(deep or head in there), layers=max(1, layers),
        pool="token" if layout.always_class_token or token in there else "mean",
        representation_size=1 if deep else None,
    )  # fmt: skip


def convert(tensors: State, layout: Layout, size: Size = None) -> tuple[ViTConfig, State]:
    """The configuration (heads are 1 if unknown, patches all in one row) and our state dict.

    Raises ValueError that names every tensor which is missing, surplus or of another shape.
    """
    tensors = {n: t for n, t in tensors.items() if not re.fullmatch(layout.left_out, n)}
    plan = outline(tensors, layout)
    theirs = {our: names(our, layout) for our in shapes(plan)}
    wanted = set().union(*theirs.values())
    missing, surplus = wanted - set(tensors), set(tensors) - wanted
    if missing or surplus:
        raise ValueError(f"missing tensors: {listed(missing)}; surplus: {listed(surplus)}")
    query = tensors[theirs["encoder.blocks.0.attention.qkv.weight"][0]]
    h = query.shape[1] if layout is NPZ and query.ndim > 1 else 1
    state = {our: joined(our, theirs[our], tensors, layout, h) for our in theirs}
    kernel = parse_shape(tensors[theirs[KERNEL][0]], layout.axes[KERNEL].split(" ->")[0])
    config = measured(plan, state, kernel["C"], kernel["P"], h)
    for our, shape in shapes(config).items():
        if state[our].shape != shape:
            module = our.rpartition(".")[0] + "."  # weight and bias: either may be the wrong one
            given = [name for o in theirs if o.startswith(module) for name in theirs[o]]
            raise misshapen(given, tensors, f"{shape} in our {our}")
    N = config.grid[1]
    if size is not None or (config.pool == "mean" and square(N - 1) and not square(N)):
        # without a class token, N that is one more than a square needs a stated size: otherwise a
        # class token is missing
        with_grid(config, size, layout)
    return config, state


def square(N: int) -> bool:
    """Whether N patches can be as many rows as columns."""
    return math.isqrt(N) ** 2 == N


def joined(our: str, theirs: tuple[str, ...], tensors: State, layout: Layout, h: int) -> Tensor:
    """Their tensors, all of one shape, with our axes, one below the other."""
    parts = [tensors[name] for name in theirs]
    axes = next((axes for end, axes in layout.axes.items() if our.endswith(end)), "... -> ...")
    try:
        parts = [rearrange(part, axes, **({"h": h} if "(h d)" in axes else {})) for part in parts]
    except EinopsError as error:
        raise misshapen(theirs, tensors, f"axes {axes.split(' ->')[0]}") from error
    if not parts[0].ndim or any(part.shape != parts[0].shape for part in parts):
        raise misshapen(theirs, tensors, "tensors of one shape")
    return torch.cat(parts).contiguous()


def measured(c: ViTConfig, state: State, C: int, P: int, h: int) -> ViTConfig:
    """The outline with its sizes: D is the most frequent length of an axis over all tensors."""
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
    c = replace(c, image_size=math.isqrt(N) * c.patch_size if image_size is None else image_size)
    rows, cols = c.grid
    if rows * cols != N:
        raise ValueError(f"{held}: image_size {image_size} makes {rows} x {cols}")
    return c


def unflatten(weight: Tensor, channels: int | None) -> Tensor:
    """The convolution's kernel (D C P P) of a projection (D C*P*P)."""
    size = weight.shape[1:].numel()
    for C in [channels] if channels else [3, 1]:
        P = math.isqrt(size // C)
        if weight.ndim == 2 and size == C * P**2:
            return weight.unflatten(1, (C, P, P))
    found = f"{tuple(weight.shape)} has no square patches of {channels or '3 or 1'} channels"
    raise ValueError(f"{KERNEL} {found}")


def read(source: Source) -> State:
    """The tensors of a dict or file, in float32 or float64; ValueError for what is none."""
    if isinstance(source, Mapping):
        return {name: floats(name, value) for name, value in unwrapped(source).items()}
    with reading(source):
        return read(read_tensors(Path(source))[0])


def floats(name: str, value: Any) -> Tensor:
    """A tensor of float32 or float64; ValueError unless it holds finite numbers."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{shown(name)} is no tensor: it holds {array.dtype}")
        value = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # a copy
    tensor = value.detach()
    check_numbers(name, tensor)
    return tensor.float() if tensor.itemsize < 4 else tensor


def misshapen(found: Iterable[str], tensors: State, fit: str) -> ValueError:
    """An error that names tensors with their shapes, to be raised."""
    given = ", ".join(f"{shown(name)} {tuple(tensors[name].shape)}" for name in found)
    return ValueError(f"misshapen tensors: {given}; expected {fit}")
