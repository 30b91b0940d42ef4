"""Chapter 13: FLOPs, memory, work that nobody reads, and a run that was interrupted."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit_tutorial.checks.core import (
    CheckFailed,
    Mistakes,
    Slips,
    compare,
    exercise,
    learning,
)
from vit_tutorial.checks.encoder import strong
from vit_tutorial.checks.training import model_of, small_data
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import TrainConfig, train

CONFIG = ViTConfig((8, 8), 4, 1, 3, 1, 8, 16, 2)


def counted(work: Callable[[], object]) -> int:
    """The FLOPs of matrix products that PyTorch's counter sees while `work` is done.

    Attention is written out: older counters do not know the fused kernel of the CPU.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


@exercise
def check_flops(implementation: Callable[[ViTConfig], float]) -> bool:
    """Check `my_flops(config) -> FLOPs` of one image's forward pass."""

    def formula(
        c: ViTConfig, each: int = 2, cls: int = 1, square: int = 4, qkv: int = 4,
        layers: bool = True, ends: bool = True, mlp: int = 2,
    ) -> int:  # fmt: skip
        N = c.grid[0] * c.grid[1]
        T, D, m = N + cls * (c.pool == "token"), c.hidden_size, c.mlp_size
        block = 2 * T * (qkv * D**2 + mlp * D * m) + square * T**2 * D
        outside = 2 * N * c.channels * c.patch_size**2 * D + 2 * D * c.classes
        return int(((c.layers if layers else 1) * block + ends * outside) * each / 2)

    def reference(c: ViTConfig) -> int:
        model, (H, W) = VisionTransformer(c), c.height_width
        return counted(lambda: model(torch.zeros(1, c.channels, H, W)))

    mistakes: Mistakes = [
        (lambda c: formula(c, each=1), "a multiplication and an addition are "
         "two operations."),
        (lambda c: formula(c, cls=0), "the class token is a token too: T = N + "
         "1 where there is one."),
        (lambda c: formula(c, square=0), "the scores and the weighted sums are "
         "missing."),
        (lambda c: formula(c, square=2), "attention has two products without "
         "weights, not one."),
        (lambda c: formula(c, square=4 * c.heads), "the heads share D: all of "
         "them together compare vectors of D numbers."),
        (lambda c: formula(c, qkv=3), "the projection after attention is "
         "missing: 4D², not 3D²."),
        (lambda c: formula(c, mlp=1), "the MLP has two matrices."),
        (lambda c: formula(c, layers=False), "this is one block; there are "
         "c.layers."),
        (lambda c: formula(c, ends=False), "the patches' projection and the "
         "head are missing."),
    ]  # fmt: skip
    shapes = ((3, 5, 3, "token"), (1, 7, 2, "mean"))
    trials = [(ViTConfig((8, 12), 4, C, K, L, 16, 24, 2, pool=pool),) for C, K, L, pool in shapes]
    return compare(implementation, reference, trials, mistakes, gradients=False)


@exercise
def check_shortcut(implementation: Callable[[VisionTransformer, Tensor], Tensor]) -> bool:
    """Check `my_shortcut(model, images) -> (B K)`: values, gradients, and work that is not done.

    In the second half of the last block only the class token is worked on.
    """

    def short(
        model: VisionTransformer, images: Tensor, one: slice = slice(1),
        near: slice = slice(None), early: bool = False, add: int = 1, last_norm: bool = True,
    ) -> Tensor:  # fmt: skip
        z, blocks = model.embedding(images), list(model.encoder.blocks)
        for i, block in enumerate(blocks):
            rows = one if early or i == len(blocks) - 1 else slice(None)
            q, k, v = block.attention.split_heads(block.norm1(z))  # type: ignore[union-attr, operator]
            read = F.scaled_dot_product_attention(q[:, :, rows], k[:, :, near], v[:, :, near])
            y = block.attention.projection(read.transpose(1, 2).flatten(2))  # type: ignore[union-attr, operator]
            z = add * z[:, rows] + y
            z = z + block.mlp(block.norm2(z))  # type: ignore[operator]
        return model.head((model.encoder.norm(z) if last_norm else z)[:, 0])

    @wraps(implementation)
    def thrifty(model: VisionTransformer, images: Tensor) -> Any:
        logits = implementation(model, images)
        wanted = model(images)
        if isinstance(logits, Tensor) and logits.shape == wanted.shape and torch.allclose(
            logits, wanted, atol=1e-8
        ):  # fmt: skip
            done = counted(lambda: implementation(model, images))
            left_out = counted(lambda: model(images)) - done
            if left_out < len(images) * saved(model.config):
                raise CheckFailed(
                    f"{implementation.__name__}: the logits are right, but {left_out:,} FLOPs were "
                    f"saved and not {len(images) * saved(model.config):,}: cut q and z before the "
                    "products."
                )
        return logits

    mistakes: Mistakes = [
        (lambda m, x: short(m, x, near=slice(1)), "the class token still reads "
         "all tokens: one query, but the keys and values of every token."),
        (lambda m, x: short(m, x, early=True), "only the last block may leave "
         "tokens out; what the earlier ones make of them is read by the next "
         "block."),
        (lambda m, x: short(m, x, add=0), "the block adds: z[:, :1] + what was "
         "read."),
        (lambda m, x: short(m, x, one=slice(-1, None)),
         "the class token is the first."),
        (lambda m, x: short(m, x, last_norm=False), "model.encoder.norm comes "
         "before the head."),
    ]  # fmt: skip
    trials = []
    for L, K, B in ((2, 3, 2), (3, 4, 1)):
        model = strong(VisionTransformer(ViTConfig(16, 4, 1, K, L, 16, 32, 4)))
        trials.append((model, torch.randn(B, 1, 16, 16, dtype=torch.float64)))
    return compare(thrifty, lambda model, images: model(images), trials, mistakes)


def saved(c: ViTConfig) -> int:
    """FLOPs of one image's forward pass that go into tokens nobody reads."""
    N, D = c.grid[0] * c.grid[1], c.hidden_size
    return 2 * N * (D**2 + 2 * D * c.mlp_size) + 4 * N * (N + 1) * D


@exercise
def check_twice_the_tokens(implementation: Callable[[int, int, int, int], float]) -> bool:
    """Check `my_growth(D, m, h, T) -> factor`: what a block keeps at 2T tokens, over that at T.

    Attention is written out, so that every head keeps its weights.
    """

    def growth(D: int, m: int, h: int, T: int) -> float:
        each = 8 * D + 2 * m + 4
        return 2 * (each + h * 2 * T) / (each + h * T)

    mistakes: Mistakes = [
        (lambda D, m, h, T: 2.0, "2 is right for fused attention; here A is kept."),
        (lambda D, m, h, T: 4.0, "only A grows with T²; the rest doubles."),
        (lambda D, m, h, T: growth(D, m, 1, T), "each of the h heads keeps an A "
         "of its own."),
        (lambda D, m, h, T: 1 / growth(D, m, h, T), "the other way round: 2T "
         "over T."),
        (lambda D, m, h, T: growth(D, 0, h, T), "the MLP keeps its middle too."),
    ]  # fmt: skip
    trials = [(768, 3072, 12, 197), (64, 128, 4, 50), (8, 16, 2, 300)]
    return compare(implementation, growth, trials, mistakes)


@exercise
def check_batch(implementation: Callable[[int, ViTConfig], int]) -> bool:
    """Check `my_batch(memory, config) -> int`: the largest batch that fits in training.

    float32, AdamW, fused attention: 16 bytes a weight, and 4 for each number that is kept.
    """

    def kept(c: ViTConfig, fused: bool = True) -> int:
        N = c.grid[0] * c.grid[1]
        T, row = N + (c.pool == "token"), c.heads
        blocks = T * (8 * c.hidden_size + 2 * c.mlp_size + 4 + (row if fused else row * T))
        patches = N * c.channels * c.patch_size**2
        return c.layers * blocks + patches + T * (2 * c.hidden_size + 2) + c.classes

    def batch(
        memory: int, c: ViTConfig, each: int = 16, size: int = 4, fused: bool = True
    ) -> float:
        with torch.device("meta"):  # shapes without numbers
            weights = sum(p.numel() for p in VisionTransformer(c).parameters())
        return (memory - each * weights) / (size * kept(c, fused))

    def rounded(**how: Any) -> Callable[[int, ViTConfig], int]:
        return lambda memory, c: int(batch(memory, c, **how))

    mistakes: Mistakes = [
        (rounded(each=4), "only the weights are counted: gradients and two "
         "moments come on top, 16 bytes in all."),
        (rounded(each=8), "AdamW keeps two numbers for each weight."),
        (rounded(each=12), "AdamW keeps two numbers for each weight, not one."),
        (rounded(each=0), "the weights need room too."),
        (rounded(size=1), "a number has 4 bytes."),
        (rounded(size=2), "a float32 has 4 bytes, not 2."),
        (rounded(fused=False), "the attention weights are not kept here: "
         "attention is fused."),
        (lambda memory, c: int(batch(memory, c)) + 1,
         "rounded up: one image too many."),
        (lambda memory, c: batch(memory, c), "a number of images is whole: "
         "round down."),
    ]  # fmt: skip
    trials = [
        (2**30, ViTConfig(28, 14, 1, 10, 6, 256, 1024, 4)),
        (2**31, ViTConfig(28, 4, 1, 10, 6, 64, 128, 4)),
        (2**30, ViTConfig((32, 64), 8, 3, 100, 4, 192, 768, 3, pool="mean")),
    ]
    return compare(implementation, rounded(), trials, mistakes, gradients=False)


@exercise
def check_interrupted(implementation: Callable[..., tuple[float, float]]) -> bool:
    """Check `my_interrupted_losses(fresh, data, settings, dice) -> (val. loss 1, val. loss 2)`.

    Two epochs with an interruption between them, equal to the uninterrupted run to the last bit.
    `fresh()` makes the model, `dice()` the generator, always the same; `Recipe(**settings)` is the
    recipe.
    """
    made: list[VisionTransformer] = []

    def fresh() -> VisionTransformer:
        made.append(model_of(CONFIG))
        return made[-1]

    def dice() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    @wraps(implementation)
    def judged(epochs: int, batch_size: int) -> Any:
        made.clear()
        name, settings = implementation.__name__, {"epochs": epochs, "batch_size": batch_size}
        got = implementation(fresh, small_data(), settings, dice)
        if got is None:
            return None
        if not isinstance(got, tuple | list) or len(got) != 2:
            many = len(got) if isinstance(got, tuple | list) else 1
            raise CheckFailed(f"{name}: {many} losses, not 2: without state= the run starts again.")
        if len(made) < 2:
            raise CheckFailed(
                f"{name}: fresh() was called {len(made)} times: after the interruption go on "
                "with a new model."
            )
        return tuple(float(loss) for loss in got)

    def reference(epochs: int, batch_size: int) -> tuple[float, ...]:
        recipe = TrainConfig(epochs=epochs, batch_size=batch_size)
        whole = train(model_of(CONFIG), small_data(), recipe, dice())
        return tuple(epoch.val_loss for epoch in whole)

    def changed_schedule(epochs: int, batch_size: int) -> tuple[Any, ...]:
        recipe = TrainConfig(epochs=1, batch_size=batch_size)
        return next(iter(train(model_of(CONFIG), small_data(), recipe, dice()))).val_loss, None

    def started_again(epochs: int, batch_size: int) -> tuple[float, float]:
        first = reference(epochs, batch_size)[0]
        return first, first

    mistakes: Mistakes = [
        (changed_schedule, "epoch 1 differs: keep the recipe as it is, or the "
         "schedule changes; stop reading instead."),
        (started_again, "epoch 2 is epoch 1 again: without state= the run "
         "starts anew."),
    ]  # fmt: skip
    slips: Slips = [(r"StopIteration|not enough values", "is state= taken after epoch 1?")]
    given = [(learning(mistake), hint) for mistake, hint in mistakes]
    return compare(judged, reference, [(2, 8), (2, 5)], given, slips)


@exercise
def check_accumulated(implementation: Callable[..., Tensor]) -> bool:
    """Check `my_accumulated(gradient_of, parts) -> (5 3)`: the gradient of the mean loss.

    `parts` are pairs (images, labels) of several sizes; `gradient_of` has room for one part.
    """

    @torch.enable_grad()
    def gradient_of(images: Tensor, labels: Tensor, room: int = 99) -> Tensor:
        if len(labels) > room:
            raise ValueError(f"{len(labels)} images at once: there is memory for {room}")
        weight = torch.linspace(-1, 1, 15).view(5, 3).requires_grad_()
        return torch.autograd.grad(F.cross_entropy(images @ weight, labels), weight)[0]

    def at_once(_: Any, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        images, labels = (torch.cat(x) for x in zip(*parts, strict=True))
        return gradient_of(images, labels)

    mistakes: Mistakes = [
        (lambda g, parts: sum(g(*p) for p in parts), "the sum of the means: as many times too "
         "large as there are parts. SGD takes it for a higher rate; AdamW hides it, and clips "
         "too early."),
        (lambda g, parts: sum(g(*p) for p in parts) / len(parts), "a mean of means: images of a "
         "small part count more. Weigh each part by its share of the images."),
        (lambda g, parts: sum(len(p[0]) * g(*p) for p in parts), "divide by the number of images."),
        (lambda g, parts: g(*parts[-1]), "this is the last part's gradient alone."),
    ]  # fmt: skip
    dice, trials = torch.Generator().manual_seed(0), []
    for sizes in ((4, 4, 1), (2, 6)):
        parts = [(torch.randn(n, 5, generator=dice), torch.randint(3, (n,), generator=dice))
                 for n in sizes]  # fmt: skip
        trials.append((partial(gradient_of, room=max(sizes)), parts))
    return compare(implementation, at_once, trials, mistakes, gradients=False)
