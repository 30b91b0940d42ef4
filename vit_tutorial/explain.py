"""Scores for patches, and tests of such scores on the answer (chapters 09 and 10).

For any VisionTransformer with a class token, and any images of its shape. Maps that need no
gradient are in `attention_maps`.
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vit_tutorial.attention import attention_weights
from vit_tutorial.encoder import EncoderBlock
from vit_tutorial.model import VisionTransformer
from vit_tutorial.patches import patchify, unpatchify


def gradient_saliency(
    model: VisionTransformer, images: Float[Tensor, "B C H W"], labels: Int[Tensor, "B"]
) -> Float[Tensor, "B N"]:
    """How strongly a patch's pixels pull at the logit of its label: the sum of absolute gradients.

    Simonyan, Vedaldi and Zisserman, 2014 (https://arxiv.org/abs/1312.6034).
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images).gather(1, labels[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), images)
    return patchify(gradient.abs(), model.config.patch_size).sum(dim=-1)


def relevance(
    model: VisionTransformer, images: Float[Tensor, "B C H W"], labels: Int[Tensor, "B"]
) -> Float[Tensor, "B N"]:
    """Attention weighted by how it raises the label's logit, followed through all blocks.

    Chefer, Gur and Wolf, 2021 (https://arxiv.org/abs/2103.15679), Equations 5 and 6: each block
    adds the positive part of weight times gradient, mean over heads.
    """
    with torch.enable_grad():
        z, maps = model.embedding(images), []
        for block in cast(list[EncoderBlock], list(model.encoder.blocks)):
            q, k, v = block.attention.split_heads(block.norm1(z))
            maps.append(attention_weights(q, k))
            read = rearrange(maps[-1] @ v, "B h T d -> B T (h d)")
            z = z + block.attention.projection(read)
            z = z + block.mlp(block.norm2(z))
        logits = model.head(model.encoder.norm(z)[:, 0]).gather(1, labels[:, None])
        gradients = torch.autograd.grad(logits.sum(), maps)
    passed = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    for weights, gradient in zip(maps, gradients, strict=True):
        passed = passed + (weights * gradient).clamp(min=0).mean(dim=1) @ passed
    return passed[:, 0, 1:].detach()


@torch.no_grad()
def patch_curve(
    model: VisionTransformer,
    images: Float[Tensor, "B C H W"],
    labels: Int[Tensor, "B"],
    scores: Float[Tensor, "B N"],
    counts: Sequence[int],
    blank: Float[Tensor, "C 1 1"],
    insert: bool = False,
) -> Float[Tensor, "B counts"]:
    """The label's probability as the patches with the highest scores are taken away, or put in.

    `blank` is the colour of a patch that is away, normalised as `images` are. With `insert` the
    image starts blank and gets its patches back, the highest first (Petsiuk, Das and Saenko, 2018,
    https://arxiv.org/abs/1806.07421). A good order falls early without, and rises early with it.
    """
    P, rows = model.config.patch_size, model.config.grid[0]
    rank = scores.argsort(dim=-1, descending=True).argsort(dim=-1)
    shown, empty = (patchify(x, P) for x in (images, blank.expand_as(images)))
    curve = []
    for count in counts:
        first = (rank < count)[..., None]
        patches = torch.where(first == insert, shown, empty)
        logits = model(unpatchify(patches, P, rows))
        curve.append(logits.softmax(dim=-1).gather(1, labels[:, None]))
    return torch.cat(curve, dim=1)


def area(curve: Float[Tensor, "*B counts"], counts: Sequence[int], N: int) -> Float[Tensor, "*B"]:
    """The area under a curve over the share of patches, by trapezes; a flat 1 over all N has 1."""
    return torch.trapezoid(curve, torch.tensor(counts).to(curve) / N, dim=-1)


@torch.no_grad()
def class_token_logits(
    model: VisionTransformer, images: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B L1 K"]:
    """What the head would say of the class token before the first block and after each.

    The last norm and the head read every stage, though they were trained for the last alone
    ("logit lens"). The last row equals the model's logits.
    """
    z = model.embedding(images)
    stages = [z[:, 0]]
    for block in model.encoder.blocks:
        z = block(z)
        stages.append(z[:, 0])
    return model.head(model.encoder.norm(torch.stack(stages, dim=1)))
