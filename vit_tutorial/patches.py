"""From an image to a sequence of patch vectors, and back."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def patchify(images: Float[Tensor, "B C H W"], P: int) -> Float[Tensor, "B N CPP"]:
    """Cut each image into N = HW/P² patches, in reading order, and flatten each of them.

    A patch vector holds C·P·P numbers in the order (C Ph Pw): first the whole first channel, row
    by row. This is x_p of Section 3.1. Raises ValueError if P does not divide H and W.
    """
    H, W = images.shape[-2:]
    if P < 1 or H % P or W % P:
        raise ValueError(f"patches of {P} x {P} pixels do not tile an image of {H} x {W}")
    return rearrange(images, "B C (rows Ph) (cols Pw) -> B (rows cols) (C Ph Pw)", Ph=P, Pw=P)


def unpatchify(patches: Float[Tensor, "B N CPP"], P: int, rows: int) -> Float[Tensor, "B C H W"]:
    """Put the patches back: the inverse of `patchify`; `rows` is H/P.

    Raises ValueError if N patches do not fill `rows` rows, or a patch is not C·P·P numbers.
    """
    N, CPP = patches.shape[-2:]
    if rows < 1 or N % rows:
        raise ValueError(f"{N} patches do not fill {rows} rows")
    if P < 1 or CPP % (P * P):
        raise ValueError(f"a patch of {CPP} numbers does not hold whole channels of {P} x {P}")
    return rearrange(
        patches, "B (rows cols) (C Ph Pw) -> B C (rows Ph) (cols Pw)", rows=rows, Ph=P, Pw=P
    )
