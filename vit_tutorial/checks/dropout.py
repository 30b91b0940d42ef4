"""Where a class drops: dropout becomes a fixed function, so that values tell the places."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from vit_tutorial.attention import MultiHeadSelfAttention, attention_weights
from vit_tutorial.checks.core import CheckFailed, agree
from vit_tutorial.embedding import Embedding
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig

AT_WORK = (
    "dropout is active in eval mode: nn.Dropout follows the mode by itself; F.dropout needs "
    "training=self.training, scaled_dot_product_attention dropout_p=0.0 outside training."
)
RATE = 0.35  # one that nobody writes into a class
At = Callable[[str, Tensor], Tensor]  # what a place makes of the numbers that pass it

PLACES = {  # of the paper: after every dense layer but qkv's, and after positions are added
    "embedding": "after the positions are added",
    "attention": "on the output of attention, before it is added",
    "inner": "inside the MLP, after GELU",
    "mlp": "on the output of the MLP, before it is added",
}
ELSEWHERE = {
    "pixels": "on the pixels",
    "patches": "on the patch tokens, before the class token joins",
    "tokens": "before the positions are added",
    "positions": "on the positions",
    "normed": "on what the norms give",
    "qkv": "on queries, keys and values",
    "weights": "on the attention weights",
    "read": "inside attention, before its projection",
    "hidden": "inside the MLP before GELU",
    "stream": "on the stream after the addition",
    "last": "on what the block gives back",
    "features": "before the head",
    "logits": "on the logits",
}


class Tame(TorchFunctionMode):
    """Makes dropout a function of each number alone, and notes the rates that were at work."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.whole: list[str] = []  # kinds that drop whole rows or channels

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").strip("_")
        if name == "scaled_dot_product_attention":
            rate = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if rate:
                named = [kwargs[n] for n in ("query", "key", "value") if n in kwargs]
                q, k, v = [*list(args[:3]), *named]
                self.rates.append(float(rate))
                return tamed(attention_weights(q, k), rate) @ v
        elif "dropout" in name:
            x = args[0] if args else kwargs["input"]
            rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            training = kwargs.get("training", kwargs.get("train", (*args, True, True, True)[2]))
            if not training or not rate:
                return x
            self.rates.append(float(rate))
            if name != "dropout":
                self.whole.append(name)
            return x.copy_(tamed(x, rate)) if kwargs.get("inplace") else tamed(x, rate)
        return func(*args, **kwargs)


def tamed(x: Tensor, rate: float) -> Tensor:
    """In place of dropout: no linear function, so that a norm or a layer behind it shows."""
    return x * (1 - rate * torch.sigmoid(x))


def judge_dropout(
    name: str,
    build: Callable[[tuple[Any, ...]], nn.Module],
    package: Callable[..., nn.Module],
    sizes: tuple[Any, ...],
    module: nn.Module,
    x: Tensor,
) -> None:
    """Refuse a class whose dropout is missing, is elsewhere, or has another rate.

    `module` is the package's own, with the weights to use. Attention has no dropout of its own. A
    dropout written by hand is seen to be random, and its place is not judged.
    """
    has_rate = not isinstance(module, MultiHeadSelfAttention)
    if has_rate:
        config = isinstance(sizes[0], ViTConfig)
        sizes = (replace(sizes[0], dropout=RATE),) if config else (*sizes, RATE)
    weights: dict[str, Tensor] = dict(module.named_parameters())

    @torch.no_grad()
    def run(owner: nn.Module, training: bool) -> Tensor:
        return functional_call(owner.double().train(training), weights, (x,))

    mine = build(sizes)
    with Tame() as calm:
        run(mine, training=False)
    if calm.rates:
        raise CheckFailed(f"{name}: {AT_WORK}")
    with Tame() as seen:
        got = run(mine, training=True)
    with Tame():
        expected = run(package(*sizes), training=True)
    if agree(got, expected) and not seen.whole:
        return
    if seen.rates or not has_rate:
        raise CheckFailed(f"{name}: {fault_of(module, x, got, seen, has_rate)}")
    if agree(run(mine, training=True), run(mine, training=True)):
        raise CheckFailed(
            f"{name}: built with a dropout of {RATE}, it drops nothing in training mode: is the "
            "rate handed on, and is the nn.Dropout called in forward?"
        )


def fault_of(module: nn.Module, x: Tensor, got: Tensor, seen: Tame, has_rate: bool) -> str:
    """What is wrong with the dropout that was seen at work."""
    if not seen.rates:
        return "in training mode it gives other values than in eval mode, though it has no dropout."
    if not has_rate:
        return (f"a dropout of {seen.rates[0]:g} is at work in it; attention has none of its own: "
                "the block applies it to the output of attention.")  # fmt: skip
    if others := [rate for rate in seen.rates if rate != RATE]:
        return f"built with a dropout of {RATE}, it drops with {others[0]:g}: hand the rate on."
    if seen.whole:
        return (
            f"F.{seen.whole[0]} drops whole rows or channels; nn.Dropout drops each number alone."
        )
    for missing, extra, values in guesses(module, x):
        if agree(got, values):
            return told(missing, extra)
    return ("dropout stands in other places than the paper's: "
            f"{', '.join(PLACES.values())}; and nowhere else.")  # fmt: skip


def told(missing: tuple[str, ...], extra: str) -> str:
    """Which dropout is missing, and which is one too many, in words."""
    *most, last = [PLACES[place] for place in missing] or [""]
    lacks = f"{', '.join(most)} and {last}" if most else last
    if not extra:
        handed = " Is the rate handed on?" if len(missing) > 1 else ""
        return f"dropout is missing {lacks}.{handed}"
    if extra in PLACES:
        twice = f"dropout runs twice {PLACES[extra]}"
        return f"{twice}, and is missing {lacks}." if missing else f"{twice}: once is enough."
    if missing:
        return f"dropout stands {ELSEWHERE[extra]}; it belongs {lacks}."
    return f"there is dropout {ELSEWHERE[extra]} too; the paper has none there."


def guesses(module: nn.Module, x: Tensor) -> Iterator[tuple[tuple[str, ...], str, Tensor]]:
    """What a module computes if dropout is missing at some places, or stands at another too."""
    form, own = FORMS[type(module)]
    for count in range(len(own) + 1):
        for missing in combinations(own, count):
            for extra in ("", *ELSEWHERE, *own):
                places = [place for place in own if place not in missing]
                dropped_at = [*places, extra]

                def at(place: str, value: Tensor, where: list[str] = dropped_at) -> Tensor:
                    for _ in range(where.count(place)):
                        value = tamed(value, RATE)
                    return value

                with torch.no_grad():
                    yield missing, extra, form(module, x, at)


def embedded(e: Any, images: Tensor, at: At) -> Tensor:
    patches = at("patches", e.patches(at("pixels", images)))
    tokens = torch.cat([e.class_token.expand(len(images), -1, -1), patches], dim=1)
    return at("embedding", at("tokens", tokens) + at("positions", e.positions))


def attended(a: Any, x: Tensor, at: At) -> Tensor:
    q, k, v = rearrange(at("qkv", a.qkv(x)), "B T (n h d) -> n B h T d", n=3, h=a.h)
    read = at("weights", attention_weights(q, k)) @ v
    return a.projection(at("read", rearrange(read, "B h T d -> B T (h d)")))


def blocked(b: Any, z: Tensor, at: At) -> Tensor:
    z = at("stream", z + at("attention", attended(b.attention, at("normed", b.norm1(z)), at)))
    inner = at("inner", b.mlp[1](at("hidden", b.mlp[0](at("normed", b.norm2(z))))))
    return at("last", at("stream", z + at("mlp", b.mlp[3](inner))))


def whole(model: Any, images: Tensor, at: At) -> Tensor:
    z = embedded(model.embedding, images, at)
    for block in model.encoder.blocks:
        z = blocked(block, z, at)
    return at("logits", model.head(at("features", model.encoder.norm(z)[:, 0])))


FORMS: dict[type[nn.Module], tuple[Callable[[Any, Tensor, At], Tensor], tuple[str, ...]]] = {
    Embedding: (embedded, ("embedding",)),
    EncoderBlock: (blocked, ("attention", "inner", "mlp")),
    VisionTransformer: (whole, tuple(PLACES)),
}
