"""Where a patch stood: fixed sine-cosine positions, and learned ones stretched to another grid."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def sincos_positions(rows: int, cols: int, D: int) -> Float[Tensor, "N D"]:
    """Fixed positions in two dimensions: a quarter of D each for sin x, cos x, sin y, cos y.

    Frequency i of D/4 is 10000^(-i / (D/4 - 1)), so neighbouring patches are the most alike.
    Raises ValueError unless D is a multiple of 4 and at least 8.
    """
    if D % 4 or D < 8:
        raise ValueError(f"sine-cosine positions need D to be a multiple of 4 from 8 on, got {D}")
    frequencies = 10000 ** -torch.linspace(0, 1, D // 4, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    x, y = (place.flatten()[:, None] * frequencies for place in (x, y))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def resample_positions(
    positions: Float[Tensor, "1 T D"],
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    prefix_tokens: int = 1,
) -> Float[Tensor, "1 T_new D"]:
    """Stretch the grid of patch positions to another (rows, cols), as Section 3.2 does.

    The positions of the first `prefix_tokens` tokens (the class token) stay as they are; the same
    grid gives the same positions back. Raises ValueError if T does not fit `old_grid`.
    """
    rows, cols = old_grid
    if positions.shape[1] != prefix_tokens + rows * cols:
        raise ValueError(
            f"{positions.shape[1]} positions are not {prefix_tokens} and a grid of {rows} x {cols}"
        )
    if old_grid == new_grid:
        return positions
    prefix, grid = positions[:, :prefix_tokens], positions[:, prefix_tokens:]
    grid = rearrange(grid, "1 (rows cols) D -> 1 D rows cols", rows=rows)
    wide = grid.float() if grid.itemsize < 4 else grid  # bicubic knows no half precision
    grid = F.interpolate(wide, size=new_grid, mode="bicubic", antialias=True).to(grid)
    return torch.cat([prefix, rearrange(grid, "1 D rows cols -> 1 (rows cols) D")], dim=1)
