"""Chapter 16: the reader's own modules, with the package's weights in them."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vit_tutorial.attention import MultiHeadSelfAttention
from vit_tutorial.checks.attention import head_mistakes
from vit_tutorial.checks.core import CheckFailed, Mistakes, Slips, compare, exercise, own_error
from vit_tutorial.checks.dropout import AT_WORK, Tame, judge_dropout
from vit_tutorial.checks.encoder import block_mistakes
from vit_tutorial.checks.head import JOINED, forward_mistakes
from vit_tutorial.embedding import Embedding
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig


@exercise
def check_embedding_class(cls: type[nn.Module]) -> bool:
    """Check a class `cls(image_size, P, C, D, dropout=0.0)`, (B C H W) -> (B T D).

    Its parts: `class_token`, `positions` and `patches.projection`.
    """
    sizes = [(2, 8, 4, 3, 12), (1, 12, 4, 1, 8), (3, 9, 3, 2, 16)]  # B, side, P, C, D
    trials = [((side, P, C, D), torch.randn(B, C, side, side)) for B, side, P, C, D in sizes]
    slips: Slips = [
        (r"must match the size", "There are N patches and T = N + 1 positions: does the class "
         "token join before the positions are added?"),
    ]  # fmt: skip
    return compare_class(
        cls, Embedding, trials, embedding_mistakes(), slips=slips, large=(32, 4, 3, 64)
    )


@exercise
def check_attention_class(cls: type[nn.Module]) -> bool:
    """Check a class `cls(D, h)` with the parts `qkv` and `projection`, (B T D) -> (B T D).

    It has no dropout: the block applies it to the output of attention.
    """
    mistakes: Mistakes = [(attention_by(mistake), hint) for mistake, hint in head_mistakes()]
    trials = [((D, h), torch.randn(B, T, D)) for B, T, D, h in [(2, 5, 12, 3), (3, 7, 16, 4)]]
    slips: Slips = [
        (r"must match the size|Expected size for first two|mat1 and mat2", "For the two products "
         "q, k and v are (B h T d); .mT swaps the last two axes, .T all of them."),
    ]  # fmt: skip
    return compare_class(cls, MultiHeadSelfAttention, trials, mistakes, slips=slips)


@exercise
def check_block_class(cls: type[nn.Module]) -> bool:
    """Check a class `cls(D, h, mlp_size, dropout=0.0)`: `norm1`, `attention`, `norm2`, `mlp`."""
    mistakes: Mistakes = [
        *((block_by(mistake), hint) for mistake, hint in block_mistakes()),
        *block_details(),
        *((block_with(mistake), f"in its attention: {hint}") for mistake, hint in head_mistakes()),
    ]
    sizes = [(2, 5, 12, 3, 1.0), (3, 7, 16, 4, 3.0), (2, 3, 8, 2, 1e-3)]  # B T D h, and how large
    trials = [((D, h, 2 * D), large * torch.randn(B, T, D)) for B, T, D, h, large in sizes]
    return compare_class(cls, EncoderBlock, trials, mistakes)


@exercise
def check_vit_class(cls: type[nn.Module]) -> bool:
    """Check a class `cls(config)` with `embedding`, `encoder` and `head`, (B C H W) -> (B K).

    The config is a ViTConfig with square images, a class token and learned positions.
    """

    def whole(mistake: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda model, images: mistake(images, model)

    def each_block(
        change: Callable[[nn.Module, Tensor], Tensor], epsilon: float = 1e-6,
        order: slice = slice(None),
    ) -> Callable[..., Tensor]:  # fmt: skip
        def logits(model: VisionTransformer, images: Tensor) -> Tensor:
            z, norm = model.embedding(images), model.encoder.norm
            for block in list(model.encoder.blocks)[order]:
                z = change(block, z)
            z = F.layer_norm(z, norm.normalized_shape, norm.weight, norm.bias, epsilon)
            return model.head(z[:, 0])

        return logits

    def embedded(mistake: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda m, images: m.head(m.encoder(mistake(m.embedding, images))[:, 0])

    def block_of(block: nn.Module, z: Tensor) -> Tensor:
        return block(z)

    (every, epsilon), *_ = block_details()
    mistakes: Mistakes = [
        (each_block(every, 1e-5), epsilon),
        (each_block(block_of, 1e-5), "the last norm has PyTorch's eps of 1e-5; the authors' is "
         "1e-6."),
        *((whole(mistake), hint) for mistake, hint in forward_mistakes()),
        (each_block(block_of, order=slice(-1)), "the last block does not run."),
        (each_block(block_of, order=slice(1, None)), "the first block does not run."),
        (each_block(block_of, order=slice(-1, None)), "each block reads the encoder's input, so "
         "only the last one counts: z = block(z) hands on what was written."),
        (each_block(block_of, order=slice(None, None, -1)), "the blocks run from the last to the "
         "first."),
        *((embedded(mistake), f"in its embedding: {hint}")
          for mistake, hint in embedding_mistakes(positions=False)),
        *((each_block(block_by(mistake)), f"in its blocks: {hint}")
          for mistake, hint in block_mistakes()),
        *((each_block(change), f"in its blocks: {hint}") for change, hint in block_details()),
        *((each_block(block_with(mistake)), f"in its attention: {hint}")
          for mistake, hint in head_mistakes()),
    ]  # fmt: skip
    configs = [ViTConfig(8, 4, 3, 5, 2, 8, 16, 2), ViTConfig(12, 4, 1, 3, 1, 12, 16, 3),
               ViTConfig(9, 3, 2, 4, 3, 8, 16, 4)]  # fmt: skip
    trials = [
        ((c,), torch.randn(B, c.channels, *c.height_width))
        for c, B in zip(configs, (2, 1, 3), strict=True)
    ]
    quiet = ("embedding", "projection", "mlp.3")  # then the stream is small, and eps shows
    large = (ViTConfig(32, 4, 3, 10, 2, 64, 128, 4),)
    return compare_class(cls, VisionTransformer, trials, mistakes, quiet, large=large)


def embedding_mistakes(positions: bool = True) -> Mistakes:
    """What goes wrong between the image and its tokens; on request not where positions go."""

    def joined(module: Any, patches: Tensor, positions: Tensor | None = None) -> Tensor:
        first = module.class_token.expand(len(patches), -1, -1)
        return torch.cat([first, patches], dim=1) + (0 if positions is None else positions)

    def token_last(module: Any, x: Tensor) -> Tensor:
        first = module.class_token.expand(len(x), -1, -1)
        return torch.cat([module.patches(x), first], dim=1)

    def late(module: Any, patches: Tensor, first: int) -> Tensor:
        return patches + module.positions[:, first : first + patches.shape[1]]

    def cut_otherwise(module: Any, x: Tensor, pattern: str = "") -> Tensor:
        P = module.patches.P
        cut = (rearrange(x, f"B C (r i) (c j) -> B {pattern}", i=P, j=P) if pattern
               else x.reshape(len(x), -1, x.shape[1] * P * P))  # fmt: skip
        return joined(module, module.patches.projection(cut), module.positions)

    def no_bias(module: Any, x: Tensor) -> Tensor:
        return joined(module, module.patches(x) - module.patches.projection.bias, module.positions)

    places: Mistakes = [
        (lambda m, x: token_last(m, x) + m.positions,
         "the class token comes last; it stands in front."),
        (token_last, "the class token comes last, and the positions are not added."),
        (lambda m, x: joined(m, m.patches(x)), "the positions are not added."),
        (lambda m, x: joined(m, late(m, m.patches(x), 1)), "the class token has no position: join "
         "it to the patches first, then add all T positions."),
        (lambda m, x: joined(m, late(m, m.patches(x), 0)), "the positions are added before the "
         "class token joins: each patch has another's, the class token none."),
    ]  # fmt: skip
    return [
        *(places if positions else []),
        (lambda m, x: late(m, m.patches(x), 1), "the class token is missing."),
        (lambda m, x: late(m, m.patches(x), 0), "the class token is missing."),
        (lambda m, x: joined(m, m.patches(x)) * m.positions, "positions are added to the tokens, "
         "not multiplied with them."),
        (lambda m, x: joined(m, m.patches(x) + m.class_token, m.positions) , "the class token is "
         "added to every patch; it only stands in front of them."),
        (no_bias, "the bias of the projection is not used."),
        (cut_otherwise, "the patches were cut by a plain reshape: use my_patchify."),
        (partial(cut_otherwise, pattern="(r c) (i j C)"), "inside a patch the channels come "
         "last; the weights wait for (C Ph Pw)."),
        (partial(cut_otherwise, pattern="(r c) (C j i)"), "inside a patch rows and columns are "
         "swapped: every patch is transposed."),
        (partial(cut_otherwise, pattern="(c r) (C i j)"), "patches come column by column; "
         "reading order goes along a row of the grid first."),
        (partial(cut_otherwise, pattern="(c r) (C j i)"), "the image is transposed: patches come "
         "column by column, and so do the pixels inside each. H comes before W."),
    ]  # fmt: skip


def attention_by(mistake: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mistake on a module's own parts."""
    return lambda module, x: mistake(x, module.qkv, module.projection, module.h)


def block_by(mistake: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mistake on a block's own parts."""
    return lambda module, z: mistake(z, module.norm1, module.attention, module.norm2, module.mlp)


def block_with(mistake: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A right block whose attention makes the mistake."""

    def forward(block: EncoderBlock, z: Tensor) -> Tensor:
        z = z + attention_by(mistake)(block.attention, block.norm1(z))
        return z + block.mlp(block.norm2(z))

    return forward


def block_details() -> Mistakes:
    """What goes wrong inside the norms and the MLP of a block that is right otherwise."""

    def built(
        epsilons: tuple[float, float] = (1e-6, 1e-6), mlp: Any = None
    ) -> Callable[..., Tensor]:
        def normed(norm: nn.LayerNorm, z: Tensor, epsilon: float) -> Tensor:
            return F.layer_norm(z, norm.normalized_shape, norm.weight, norm.bias, epsilon)

        def forward(block: Any, z: Tensor) -> Tensor:
            z = z + block.attention(normed(block.norm1, z, epsilons[0]))
            y = normed(block.norm2, z, epsilons[1])
            return z + (mlp(block.mlp[0], block.mlp[3], y) if mlp else block.mlp(y))

        return forward

    def between(nonlinearity: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        return built(mlp=lambda a, b, y: b(nonlinearity(a(y))))

    tanh = partial(F.gelu, approximate="tanh")
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "a ReLU": F.relu, "a SiLU": F.silu, "a tanh": torch.tanh, "a sigmoid": torch.sigmoid,
        "a leaky ReLU": F.leaky_relu, "an ELU": F.elu,
        "the quick approximation x · sigmoid(1.702 x)": lambda y: y * torch.sigmoid(1.702 * y),
    }  # fmt: skip
    return [
        (built((1e-5, 1e-5)), "the norms have PyTorch's eps of 1e-5; the authors' is 1e-6."),
        (built((1e-5, 1e-6)), "norm1 has PyTorch's eps of 1e-5; the authors' is 1e-6."),
        (built((1e-6, 1e-5)), "norm2 has PyTorch's eps of 1e-5; the authors' is 1e-6."),
        *((between(other), f"this is {name}; the MLP has a GELU.")
          for name, other in others.items()),
        (between(tanh), "this is GELU's tanh approximation: nn.GELU()."),
        (between(lambda y: y), "the MLP has no activation: two linear layers in a row are one. "
         "GELU stands between them."),
        (built(mlp=lambda a, b, y: F.gelu(b(F.gelu(a(y))))),
         "there is an activation after the second layer too; GELU stands only "
         "between the two."),
        (built(mlp=lambda a, b, y: F.gelu(b(a(y)))), "the activation comes "
         "after the second layer; GELU stands between the two."),
        (built(mlp=lambda a, b, y: b(a(F.gelu(y)))), "the activation comes "
         "before the first layer; GELU stands between the two."),
        (built((1e-5, 1e-5), lambda a, b, y: b(tanh(a(y)))),
         "the norms have PyTorch's eps (the authors': 1e-6), and GELU is "
         "approximated."),
    ]  # fmt: skip


def compare_class(
    cls: type[nn.Module],
    package: Callable[..., nn.Module],
    trials: Sequence[tuple[tuple[Any, ...], Tensor]],
    mistakes: Mistakes,
    quiet: tuple[str, ...] = (),
    slips: Slips = (),
    large: tuple[Any, ...] = (),
) -> bool:
    """Like `compare`, for a class: the package's random weights are used by the reader's module.

    In the last trial the weights whose names hold a word of `quiet` are a thousandth as large.
    When values and gradients are right, so must be the first weights of a model of the sizes
    `large`, if those are given, and dropout.
    """
    given = []
    for sizes, x in trials:
        module = package(*sizes).double().eval()
        for name, weight in module.named_parameters():  # no zeros or ones that hide a mistake
            scale = name.endswith("weight") and "norm" in name
            nn.init.normal_(weight, mean=1.0 if scale else 0.0, std=0.4)
            if x is trials[-1][1] and any(word in name for word in quiet):
                nn.init.normal_(weight, std=4e-4)
        mine = build(cls, sizes)
        if not mine.state_dict():
            print(f"○ {cls.__name__} has no weights yet: write its body")
            return False
        compare_names(cls.__name__, mine, module)
        mine.load_state_dict(module.state_dict())
        given.append((module, x.double()))

    def forward(module: nn.Module, x: Tensor) -> Any:
        sizes = next(s for (s, y) in trials if y.shape == x.shape)
        mine = build(cls, sizes).double().eval()
        with Tame() as dropout:
            result = functional_call(mine, dict(module.named_parameters()), (x,))
        if dropout.rates:
            raise CheckFailed(f"{cls.__name__}: {AT_WORK}")
        return result

    forward.__name__ = cls.__name__
    own = list(inspect.signature(cls.forward).parameters.values())
    if len(own) == 2:  # messages name the input as the reader does
        named = [own[0].replace(name="module"), own[1]]
        forward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    slips = [
        *slips,
        *JOINED,
        (r"forward.*positional argument", "forward takes one argument besides "
         "self."),
    ]  # fmt: skip

    def beyond_values() -> None:
        if large:
            compare_first_weights(cls.__name__, build(cls, large), package(*large))
        for (sizes, _), (module, x) in zip(trials[:2], given, strict=False):
            judge_dropout(cls.__name__, partial(build, cls), package, sizes, module, x)

    return compare(forward, lambda module, x: module(x), given, mistakes, slips, last=beyond_values)


def build(cls: type[nn.Module], sizes: tuple[Any, ...]) -> nn.Module:
    """An instance of the reader's class, or one line that says why there is none."""
    try:
        with torch.random.fork_rng(devices=[]):  # however many numbers the class draws
            mine = cls(*sizes)
    except Exception as error:
        given = ", ".join("config" if isinstance(s, ViTConfig) else f"{s}" for s in sizes)
        raise own_error(cls.__name__, error, f"{cls.__name__}({given})") from error
    if not isinstance(mine, nn.Module):
        raise CheckFailed(f"{cls.__name__} should be a subclass of nn.Module")
    return mine


def compare_names(name: str, mine: nn.Module, module: nn.Module) -> None:
    """Refuse other names or shapes of weights than the package's."""
    shapes = {key: tuple(value.shape) for key, value in mine.state_dict().items()}
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    missing = [key for key in wanted if key not in shapes]
    surplus = [key for key in shapes if key not in wanted]
    if missing:
        others = f"; it has {', '.join(surplus[:4])}, which the package has not" if surplus else ""
        raise CheckFailed(
            f"{name} has no {', '.join(missing[:4])}{others}. {why_missing(mine, missing, surplus)}"
        )
    if surplus:
        raise CheckFailed(f"{name} has {', '.join(surplus[:4])}, which the package has not.")
    for key, shape in wanted.items():
        if shapes[key] != shape:
            why = next((f" ({why})" for end, why in WHY_SHAPE.items() if key.endswith(end)), "")
            raise CheckFailed(f"{name}: {key} has shape {shapes[key]}, expected {shape}.{why}")
    given = dict(mine.named_parameters(remove_duplicate=False))
    for key in dict(module.named_parameters()):
        if key not in given:
            raise CheckFailed(
                f"{name}: {key} is a buffer, which is saved but never trained: make it an "
                "nn.Parameter."
            )
        if not given[key].requires_grad:
            raise CheckFailed(f"{name}: {key} has requires_grad=False, so it is never trained.")
    seen: dict[int, str] = {}
    for key, parameter in mine.named_parameters(remove_duplicate=False):
        if (first := seen.setdefault(id(parameter), key)) != key:
            raise CheckFailed(
                f"{name}: {first} and {key} are one and the same tensor: make a module for each. "
                "([block] * L holds one block L times.)"
            )


def compare_first_weights(name: str, mine: nn.Module, module: nn.Module) -> None:
    """Refuse first weights with another mean or spread than the package's.

    The patches of an embedding alone are left out: a model has yet to draw them.
    """
    given = dict(mine.named_parameters())
    for key, want in module.named_parameters():
        got, own = given[key].detach(), key.split(".")[-1] in ("class_token", "positions")
        if isinstance(module, Embedding) and not own:
            continue
        spread, middle = want.std().item(), want.mean().item()
        if spread < 1e-5:  # one number for all
            right = (got - middle).abs().max().item() < 1e-4
        else:
            allowed = 0.08 + 4 / (2 * want.numel()) ** 0.5  # by chance
            right = (abs(got.std().item() / spread - 1) < allowed
                     and abs(got.mean().item()) < allowed * spread)  # fmt: skip
        if right:
            continue
        found = (f"has a mean of {got.mean().item():.2g} and a standard deviation of "
                 f"{got.std().item():.2g} at the start")  # fmt: skip
        asked = f"it should start as {middle:.0f}" if spread < 1e-5 else (
            f"it should have 0 and {spread:.2g}")  # fmt: skip
        how = "" if own else " Does __init__ call authors_weights(self) at its end?"
        raise CheckFailed(f"{name}: {key} {found}; {asked}.{how}")


WHY_SHAPE = {
    "positions": "One row for each of the T = N + 1 tokens, the class token's included.",
    "class_token": "One vector for the whole batch, (1, 1, D).",
    "patches.projection.weight": "A linear layer on flattened patches, from C·P·P to D.",
    "qkv.weight": "One linear layer from D to 3D, for the queries, keys and values of all heads.",
    "mlp.0.weight": "From D to mlp_size.",
    "mlp.3.weight": "From mlp_size to D.",
    "head.weight": "From D to the number of classes.",
}


def why_missing(mine: nn.Module, missing: list[str], surplus: list[str]) -> str:
    """The likely reason for names that are not there."""
    if all(key.endswith(".bias") for key in missing):
        return "A linear layer and a LayerNorm have a bias unless bias=False is given."
    if any("mlp.3" in key for key in missing) and any("mlp.2" in key for key in surplus):
        return ("The MLP is linear, GELU, dropout, linear: the second linear layer is number 3, "
                "and the dropout number 2.")  # fmt: skip
    if plain := [key for key in missing if isinstance(attribute(mine, key), Tensor)]:
        return (
            f"Its {plain[0]} is a plain tensor: to be learned and saved, make it an nn.Parameter."
        )
    lists = [n for m in mine.modules() for n, value in vars(m).items() if isinstance(value, list)
             and any(isinstance(part, nn.Module) for part in value)]  # fmt: skip
    if lists:
        return f"Its {lists[0]} are a Python list, whose modules are not seen: use nn.ModuleList."
    return ("With the package's names its weights can be loaded. (A tensor to be learned is an "
            "nn.Parameter; modules in a list are an nn.ModuleList.)")  # fmt: skip


def attribute(module: nn.Module, path: str) -> Any:
    """What a dotted name leads to, or None."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
