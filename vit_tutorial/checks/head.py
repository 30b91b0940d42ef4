"""Chapter 07: the whole forward pass, its parameters, the loss, and a causal mask left in."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vit_tutorial.checks.core import CheckFailed, Mistakes, Slips, agree, compare, exercise
from vit_tutorial.embedding import Embedding
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer, ViTConfig

JOINED: Slips = [
    (r"must match except in dimension [02]", "tokens are joined along axis 1, (B T D): "
     "torch.cat([...], dim=1)."),
    (r"Sizes of tensors must match", "the class token is one for the whole batch: expand it to "
     "(B 1 D) before it is joined."),
]  # fmt: skip


@exercise
def check_forward(implementation: Callable[[Tensor, VisionTransformer], Tensor]) -> bool:
    """Check `my_vit_forward(images (B C H W), model) -> (B K)`; raises CheckFailed with a hint.

    The model's head reads the class token; dropout is off.
    """
    slips: Slips = [
        *JOINED,
        (r"must match the size|broadcast", "there are N + 1 positions: join the "
         "class token first, then add them."),
    ]  # fmt: skip

    @wraps(implementation)
    def stepwise(*arguments: Any) -> Any:
        def stop(*_: Any) -> Tensor:
            raise CheckFailed(
                f"{implementation.__name__} calls the model's own forward, which is what is asked "
                "for: go through its parts, model.embedding, model.encoder and model.head."
            )

        model = arguments[1]
        model.forward = stop
        try:
            return implementation(*arguments)
        finally:
            del model.forward

    return compare(stepwise, whole, models_and_images(), forward_mistakes(), slips)


@exercise
def check_growth(implementation: Callable[[int, int, int, int, int], int]) -> bool:
    """Check `my_growth(P, new_P, C, D, image_size) -> int`: parameters gained by another P."""

    def reference(P: int, new_P: int, C: int, D: int, image_size: int) -> int:
        old, new = (sum(p.numel() for p in Embedding(image_size, side, C, D).parameters())
                    for side in (P, new_P))  # fmt: skip
        return new - old

    def kernel(P: int, new_P: int, C: int, D: int, size: int) -> int:
        return C * (new_P**2 - P**2) * D

    def places(P: int, new_P: int, C: int, D: int, size: int) -> int:
        return ((size // new_P) ** 2 - (size // P) ** 2) * D

    mistakes: Mistakes = [
        (kernel, "the table of positions changes too: it has a row for each patch."),
        (lambda P, new, C, D, size: C * (new - P) * D + places(P, new, C, D, size),
         "a patch is P pixels wide and P pixels high: it has C·P² numbers."),
        (places, "the projection changes too: a patch has another number of "
         "pixels."),
        (lambda *a: -reference(*a), "the sign is turned round: new minus old."),
        (lambda P, new, C, D, size: kernel(P, new, 1, D, size) + places(P, new, C, D, size),
         "a patch has C numbers for each pixel."),
        (lambda P, new, C, D, size: kernel(P, new, C, D, size) + (size // new - size // P) * D,
         "the grid has (size/P)² patches, not size/P."),
        (lambda P, new, C, D, size: kernel(P, new, C, D, size) - places(P, new, C, D, size),
         "the positions count with the wrong sign: smaller patches are more "
         "patches."),
        (lambda P, new, C, D, size: kernel(P, new, C, D, size) + places(P, new, C, 1, size),
         "each position has D numbers."),
    ]  # fmt: skip
    trials = [(4, 7, 2, 64, 28), (7, 4, 1, 64, 28), (16, 32, 3, 768, 224)]  # the book's is last
    return compare(implementation, reference, trials, mistakes)


def joined(images: Tensor, model: VisionTransformer, behind: bool = False) -> Tensor:
    e = model.embedding
    parts = [cast(Tensor, e.class_token).expand(len(images), -1, -1), e.patches(images)]
    return torch.cat(parts[::-1] if behind else parts, dim=1)


def encode(z: Tensor, model: VisionTransformer) -> Tensor:
    for block in model.encoder.blocks:
        z = block(z)
    return z


def late(images: Tensor, model: VisionTransformer, first: int) -> Tensor:
    tokens, N = joined(images, model), model.embedding.positions.shape[1] - 1
    tokens[:, 1:] += model.embedding.positions[:, first : first + N]
    return model.head(model.encoder(tokens)[:, 0])


def whole(
    images: Tensor,
    model: VisionTransformer,
    read: Callable[[Tensor], Tensor] = lambda z: z[:, 0],
) -> Tensor:
    return model.head(read(model.encoder(model.embedding(images))))


def behind(images: Tensor, model: VisionTransformer, token: int) -> Tensor:
    z = joined(images, model, behind=True) + model.embedding.positions
    return model.head(model.encoder(z)[:, token])


def forward_mistakes() -> Mistakes:
    """What goes wrong between the image and the logits."""
    no_place = (
        "the class token has no position: join it to the patches first, then add all N + 1 rows "
        "of the table (Equation 1)."
    )
    at_the_end = "the class token stands behind the patches; Equation 1 puts it in front."
    return [
        (lambda x, m: m.head(encode(m.embedding(x), m)[:, 0]),
         "the last LayerNorm is missing: the head reads model.encoder.norm of "
         "the last block's output (Equation 4)."),
        (lambda x, m: whole(x, m, lambda z: z.mean(dim=1)),
         "this is the mean over all tokens; the head of this model reads the "
         "class token, z[:, 0]."),
        (lambda x, m: whole(x, m, lambda z: z[:, 1:].mean(dim=1)),
         "this is the mean over the patches; the head of this model reads the "
         "class token, z[:, 0]."),
        (lambda x, m: whole(x, m).softmax(dim=-1), "a softmax is applied "
         "already: return the logits. The loss has the softmax inside, and a "
         "second one flattens its gradient."),
        (lambda x, m: whole(x, m).log_softmax(dim=-1),
         "these are logarithms of probabilities: return the logits, the loss "
         "does the rest."),
        (lambda x, m: whole(x, m).sigmoid(), "a sigmoid is applied: return the logits, the loss "
         "does the rest."),
        (lambda x, m: whole(x, m).argmax(dim=-1), "this is the predicted class: "
         "return all K logits."),
        (lambda x, m: late(x, m, first=1), no_place),
        (lambda x, m: late(x, m, first=0), no_place),
        (lambda x, m: whole(x, m, lambda z: z[:, -1]),
         "the last token is read, which is a patch; the class token is the "
         "first, z[:, 0]."),
        (lambda x, m: whole(x, m, lambda z: z[:, 1]),
         "token 1 is read, which is the first patch; the class token is token 0."),
        (lambda x, m: whole(x, m, lambda z: z), "every token has got logits: "
         "take token 0 before the head."),
        (lambda x, m: behind(x, m, token=-1), at_the_end),
        (lambda x, m: behind(x, m, token=0), at_the_end),
        (lambda x, m: m.head(m.encoder(joined(x, m))[:, 0]),
         "the positions are missing."),
        (lambda x, m: m.features(x), "these are the features y: the head is "
         "missing."),
        (lambda x, m: m.head(m.encoder.norm(m.embedding(x))[:, 0]),
         "the blocks are missing, or what they give back is not kept: z = block(z)."),
        (lambda x, m: m.head(m.encoder.norm(m.encoder.blocks[0](m.embedding(x)))[:, 0]),
         "only one block ran: loop over all of encoder.blocks. (Is a return inside the loop?)"),
        (lambda x, m: whole(x, m, lambda z: m.encoder.norm(z)[:, 0]),
         "the last norm is applied twice: model.encoder has it inside already."),
        (lambda x, m: read_after(x, m, lambda block, z: z + block(z)), "a residual goes round each "
         "block; the block has both of its own inside: z = block(z)."),
        (lambda x, m: read_after(x, m, lambda block, z: m.encoder.norm(block(z)), norm=False),
         "the last norm is applied after every block; it comes once, after the last of them."),
    ]  # fmt: skip


def read_after(
    images: Tensor, model: VisionTransformer, change: Callable[..., Tensor], norm: bool = True
) -> Tensor:
    """The logits if each block is used in another way."""
    z = model.embedding(images)
    for block in model.encoder.blocks:
        z = change(block, z)
    return model.head((model.encoder.norm(z) if norm else z)[:, 0])


class ByHand(TorchFunctionMode):
    """Refuses what would do the whole exercise."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name  # of the reader's function

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        called = getattr(func, "__name__", "")
        if any(word in called for word in ("cross_entropy", "log_softmax", "logsumexp")):
            raise CheckFailed(
                f"{self.name}: {called} has the exponentials and logarithms inside that are asked "
                "for here: write it with exp, sum and log."
            )
        return func(*args, **(kwargs or {}))


@exercise
def check_cross_entropy(implementation: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Check `my_cross_entropy(logits (B K), labels (B)) -> mean loss`; CheckFailed has a hint."""
    right_so_far = [True]  # else inf is not what is wrong first

    @wraps(implementation)
    def finite(logits: Tensor, labels: Tensor) -> Any:
        with ByHand(implementation.__name__):
            loss = implementation(logits, labels)
        if not isinstance(loss, Tensor) or not right_so_far[0]:
            return loss
        right_so_far[0] = agree(loss, F.cross_entropy(logits, labels))
        if not loss.isfinite().all():
            raise CheckFailed(
                f"{implementation.__name__}: inf or nan for logits up to {logits.max().item():.0f}"
                ": take the largest logit of each row off all of that row first, and never take "
                "the logarithm of a softmax."
            )
        return loss

    mistakes: Mistakes = [
        (lambda x, labels: F.cross_entropy(x.softmax(dim=-1), labels),
         "this is the loss of a second softmax: the exponentials are already in "
         "log-sum-exp."),
        (lambda x, labels: F.cross_entropy(x, labels, reduction="sum"),
         "this is the sum over the batch: take the mean."),
        (lambda x, labels: F.cross_entropy(x, labels, reduction="none"),
         "this is the loss of each image: take the mean."),
        (lambda x, labels: -F.cross_entropy(x, labels), "the sign is turned round."),
        (lambda x, labels: x.logsumexp(dim=-1).mean(),
         "the logit of the true class is missing: take it off log-sum-exp."),
        (lambda x, labels: F.nll_loss(x, labels), "log-sum-exp is missing: a "
         "logit is no logarithm of a probability yet."),
        (lambda x, labels: F.cross_entropy(x, labels) / math.log(2),
         "this is in bits: use the natural logarithm."),
        (lambda x, labels: F.cross_entropy(x, labels, reduction="sum") / x.shape[1],
         "the sum is divided by the number of classes; divide by the number of "
         "images."),
        (lambda x, labels: F.mse_loss(x.softmax(dim=-1), F.one_hot(labels, x.shape[1]).float()),
         "this is the squared error of the probabilities; cross-entropy is -log "
         "of the true class's one."),
        (lambda x, labels: (from_top(x).exp().log().sum(-1) - of_class(from_top(x), labels)).mean(),
         "the logarithm stands inside the sum, where it undoes the exponential: sum first, then "
         "take the logarithm."),
        (lambda x, labels: (from_top(x).logsumexp(-1) - of_class(x, labels)).mean(),
         "the largest logit is taken off log-sum-exp only: the logit of the true class loses it "
         "too."),
        (lambda x, labels: (x.logsumexp(-1) - of_class(from_top(x), labels)).mean(),
         "the largest logit is taken off the true class's logit only: log-sum-exp loses it too."),
    ]  # fmt: skip

    def from_top(x: Tensor) -> Tensor:
        return x - x.amax(dim=-1, keepdim=True)

    def of_class(x: Tensor, labels: Tensor) -> Tensor:
        return x.gather(1, labels[:, None])[:, 0]

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 10, generator=generator)
    labels = torch.randint(10, (6,), generator=generator)
    trials = [(scale * logits, labels) for scale in (1, 5, 1000)] + [
        (logits[:3, :4], labels[:3] % 4)
    ]
    return compare(finite, lambda x, labels: F.cross_entropy(x, labels), trials, mistakes)


@exercise
def check_masked_logits(
    implementation: Callable[[Tensor, VisionTransformer, bool], Tensor],
) -> bool:
    """Check `my_masked_logits(images (B C H W), model, last) -> (B K)`; CheckFailed has a hint.

    A causal mask in every block; the class token stands first, or `last`, with its own position.
    """

    def masked(
        z: Tensor, model: VisionTransformer, read: int, norm: bool = True, blocks: int = 99
    ) -> Tensor:
        for number, block in enumerate(cast(list[EncoderBlock], model.encoder.blocks)):
            q, k, v = block.attention.split_heads(block.norm1(z))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=number < blocks)
            z = z + block.attention.projection(rearrange(y, "B h T d -> B T (h d)"))
            z = z + block.mlp(block.norm2(z))
        return model.head((model.encoder.norm(z) if norm else z)[:, read])

    def placed(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        return model.embedding(images).roll(-1 if last else 0, dims=1)

    def in_the_order_of_the_table(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        e = model.embedding
        return (model.embedding(images) - e.positions).roll(-1 if last else 0, dims=1) + e.positions

    def reference(images: Tensor, model: VisionTransformer, last: bool) -> Tensor:
        return masked(placed(images, model, last), model, -1 if last else 0)

    mistakes: Mistakes = [
        (lambda x, m, last: m(x), "these are the logits without a mask: use "
         "CausalAttention.forward(block.attention, ...) in every block."),
        (lambda x, m, last: reference(x, m, False), "the class token should "
         "move behind the patches when `last` is true."),
        (lambda x, m, last: reference(x, m, True), "the class token should stay "
         "in front when `last` is false."),
        (lambda x, m, last: masked(placed(x, m, last), m, 0),
         "token 0 is read; when the class token stands last, read token -1."),
        (lambda x, m, last: masked(placed(x, m, last), m, -1),
         "token -1 is read; when the class token stands first, read token 0."),
        (lambda x, m, last: masked(in_the_order_of_the_table(x, m, last), m, -1 if last else 0),
         "the tokens moved and their positions did not: each keeps its own, so "
         "move them after the positions are added."),
        (lambda x, m, last: masked(placed(x, m, last), m, -1 if last else 0, norm=False),
         "the last LayerNorm is missing."),
        (lambda x, m, last: masked(placed(x, m, last), m, -1 if last else 0, blocks=1),
         "only the first block has the mask: every block needs it."),
        (lambda x, m, last: masked(
            m.embedding(x).flip(1) if last else m.embedding(x), m, -1 if last else 0),
         "flip turns the patches round too: only the class token goes to the end, roll(-1, "
         "dims=1)."),
        (lambda x, m, last: masked(m.embedding(x).roll(int(last), 1), m, -1 if last else 0),
         "roll(1) brings the last patch to the front; roll(-1, dims=1) takes the class token to "
         "the end."),
    ]  # fmt: skip
    pairs = models_and_images()
    trials = [(images, model, last) for images, model in pairs for last in (False, True)]
    return compare(implementation, reference, trials, mistakes)


def models_and_images() -> list[tuple[Tensor, VisionTransformer]]:
    """Small models with no zeros or ones among their weights that would hide a mistake."""
    pairs = []
    with torch.no_grad():
        for B, C, H, W in [(3, 3, 8, 12), (1, 1, 8, 8), (4, 2, 12, 4)]:
            model = VisionTransformer(ViTConfig((H, W), 4, C, 5, 2, 16, 24, 2)).eval()
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            pairs.append((torch.randn(B, C, H, W), model))
    return pairs
