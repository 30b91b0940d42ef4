"""Muon: momentum whose matrices are made orthogonal, after Keller Jordan.

https://kellerjordan.github.io/posts/muon/. `torch.optim.Muon` iterates in bfloat16, matrix by
matrix; here equal shapes go through one product in the precision of the weights, since a CPU
without bfloat16 needs 2.7 times as long for an epoch with the former.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95


def orthogonal(gradients: Float[Tensor, "B m n"], steps: int = 5) -> Float[Tensor, "B m n"]:
    """Every matrix U S Vᵀ becomes about U Vᵀ: Newton-Schulz brings its singular values near 1.

    The note's coefficients, which reach 0.7 to 1.2 in few steps instead of 1 in many.
    """
    wide = gradients.shape[1] <= gradients.shape[2]
    X = gradients if wide else gradients.mT
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)  # no singular value above 1
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), X, beta=3.4445)
    return X if wide else X.mT


class Muon(torch.optim.AdamW):
    """AdamW, but the matrices of groups with `parts` take a step of orthogonalised momentum.

    A matrix of k `parts` holds k of them below each other, as q, k and v, and each is made
    orthogonal by itself. A group's `lr` is the length of the step for every direction alike;
    matrices with more rows than columns get sqrt(rows / columns) of it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Both kinds of step. What Muon has used is no longer there as a gradient."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor, dict[str, Any]]]] = {}
        for group in self.param_groups:
            for p in group["params"] if "parts" in group else []:
                if p.grad is None:
                    continue
                if p not in self.state:  # AdamW asks every entry for its step
                    self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - MOMENTUM)
                ahead = p.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                pieces = p.chunk(group["parts"]), ahead.chunk(group["parts"])
                for part, moved in zip(*pieces, strict=True):
                    alike.setdefault(part.shape, []).append((part, moved, group))
                p.grad = None  # AdamW passes over it
        for (rows, columns), parts in alike.items():
            updates = orthogonal(torch.stack([moved for _, moved, _ in parts]))
            for (part, _, group), update in zip(parts, updates, strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
        return super().step(closure)


def muon_groups(
    model: nn.Module, groups: list[dict[str, Any]], scale: float
) -> list[dict[str, Any]]:
    """Groups of their own for the matrices inside the blocks, at `scale` times the others' rate."""
    blocks = model.get_submodule("encoder.blocks").named_modules()
    parts = {
        id(m.weight): 3 if name.endswith("qkv") else 1
        for name, m in blocks
        if isinstance(m, nn.Linear)
    }
    made = []
    for group in groups:
        made.append(group | {"params": [p for p in group["params"] if id(p) not in parts]})
        for k in (1, 3):
            chosen = [p for p in group["params"] if parts.get(id(p)) == k]
            made += [group | {"params": chosen, "parts": k, "scale": scale}] if chosen else []
    return made
