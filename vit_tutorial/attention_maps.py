"""From attention weights to maps over the image: arithmetic only, no drawing."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def class_token_maps(
    maps: Float[Tensor, "*leading T T"], rows: int, cols: int
) -> Float[Tensor, "*leading rows cols"]:
    """How much the class token reads from each patch, laid out as the image is.

    Without a class token (T = N) every patch is read by the mean over tokens: so is the map.
    Raises ValueError if T is neither N nor N + 1.
    """
    read = maps.mean(dim=-2) if prefix_tokens(maps.shape[-1], rows, cols) == 0 else maps[..., 0, 1:]
    return rearrange(read, "... (rows cols) -> ... rows cols", rows=rows)


def attention_rollout(maps: Float[Tensor, "B L h T T"]) -> Float[Tensor, "B T T"]:
    """Follow attention through all blocks (Abnar and Zuidema, 2020; Appendix D.8 of the paper).

    The heads are averaged, half of each row is the token itself (the residual stream), rows are
    normalised, and later blocks multiply from the left. Every row sums to one.
    """
    T = maps.shape[-1]
    steps = maps.mean(dim=2) + torch.eye(T, dtype=maps.dtype, device=maps.device)
    steps = steps / steps.sum(dim=-1, keepdim=True)
    rollout = steps[:, 0]
    for step in steps.unbind(dim=1)[1:]:
        rollout = step @ rollout
    return rollout


def attention_distance(
    maps: Float[Tensor, "B L h T T"], rows: int, cols: int
) -> Float[Tensor, "B L h"]:
    """How far a head looks: the mean distance from a patch to what it reads, in patches.

    The class token is left out, as reader and as read, and rows are normalised again (Figure 7).
    """
    first = prefix_tokens(maps.shape[-1], rows, cols)
    weights = maps[..., first:, first:]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).double()
    apart = torch.cdist(places, places).to(weights)  # half precision knows no cdist
    return (weights * apart).sum(dim=-1).mean(dim=-1)


def attention_entropy(maps: Float[Tensor, "B L h T T"]) -> Float[Tensor, "B L h"]:
    """How widely a head reads: the mean entropy of its rows, in bits.

    0 where every reader reads one token alone, log2 T where all are read alike.
    """
    return torch.special.entr(maps).sum(dim=-1).mean(dim=-1) / math.log(2)


def position_similarity(
    positions: Float[Tensor, "1 T D"], rows: int, cols: int
) -> Float[Tensor, "rows cols rows cols"]:
    """The cosine between the positions of every two patches, as in the paper's Figure 7."""
    patches = F.normalize(positions[0, prefix_tokens(positions.shape[1], rows, cols) :], dim=-1)
    return rearrange(patches @ patches.T, "(r c) (s d) -> r c s d", r=rows, s=rows)


def prefix_tokens(T: int, rows: int, cols: int) -> int:
    """1 if the class token leads a grid of rows x cols tokens, 0 if there is none."""
    if T - rows * cols not in (0, 1):
        raise ValueError(
            f"a grid of {rows} x {cols} has {rows * cols} patches, or {rows * cols + 1} tokens "
            f"with the class token; got {T}"
        )
    return T - rows * cols
