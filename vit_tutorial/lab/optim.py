"""Optimisers for long runs: Muon, a learning rate for each layer, and an average of the weights.

Muon is momentum whose matrices are made orthogonal, after Keller Jordan
(https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon` iterates in bfloat16, one matrix
at a time; here matrices of equal shape share one batched product in the precision of the weights,
since on a CPU without bfloat16 an epoch with the former takes 2.7 times as long.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.train import parameter_groups

MOMENTUM = 0.95
Group = dict[str, Any]  # the parameters of an optimizer's group, and its settings


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices in the blocks and AdamW for the rest.

    A parameter group may have a "scale": its rate as a multiple of the scheduled one.
    """
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimizer == "muon":
        groups = muon_groups(model, groups, recipe.muon_rate / recipe.learning_rate)
    groups = layer_groups(model, groups, recipe.layer_decay)
    if recipe.optimizer == "muon":
        return Muon(groups, betas=(0.9, 0.95), fused=True)
    return torch.optim.AdamW(groups, fused=True)


def kept_after_a_step(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Tensors like those that `make_optimizer`'s has from its first step on, by their names."""
    found, groups = dict[str, Tensor](), optimizer.param_groups
    for i, (p, muon) in enumerate((p, "parts" in g) for g in groups for p in g["params"]):
        if p.requires_grad:
            momenta = ("momentum",) if muon else ("exp_avg", "exp_avg_sq")
            found |= {f"optimizer.{i}.{name}": p for name in momenta}
            found[f"optimizer.{i}.step"] = torch.zeros(())
    return found


def update_average(average: nn.Module, model: nn.Module, keep: float, step: int) -> None:
    """Move `average`, an exponential moving average of the weights, towards those of `model`.

    It keeps the share min(keep, (1 + step) / (10 + step)) of itself: `step` counts from 1, and the
    first steps, still far from good weights, are soon forgotten.
    """
    decay = min(keep, (1 + step) / (10 + step))
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(model.parameters()), step)


def orthogonal(gradients: Float[Tensor, "B m n"], steps: int = 5) -> Float[Tensor, "B m n"]:
    """Replace every matrix U S Vᵀ by about U Vᵀ: all singular values become about 1.

    A Newton-Schulz iteration with Jordan's coefficients, which reaches 0.7 to 1.2 in a few steps
    where others reach 1 in many.
    """
    wide = gradients.shape[1] <= gradients.shape[2]
    X = gradients if wide else gradients.mT
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)  # no singular value above 1
    for _ in range(steps):
        A = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315), X, beta=3.4445)
    return X if wide else X.mT


class Muon(torch.optim.AdamW):
    """AdamW, except that matrices in groups with `parts` step along orthogonalised momentum.

    A matrix of k `parts` stacks k matrices, as q, k and v, and each is made orthogonal by itself.
    A group's `lr` is the length of the step in every direction alike; matrices with more rows than
    columns get sqrt(rows / columns) of it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take both kinds of step; return the loss of `closure`, which is called first, once.

        Sets the gradients of Muon's matrices to None, so that AdamW skips them.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        alike: dict[torch.Size, list[tuple[Tensor, Tensor, Group]]] = {}
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
                p.grad = None
        for (rows, columns), parts in alike.items():
            updates = orthogonal(torch.stack([moved for _, moved, _ in parts]))
            for (part, _, group), update in zip(parts, updates, strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
        super().step()
        return loss


def muon_groups(model: nn.Module, groups: list[Group], scale: float) -> list[Group]:
    """Split off the matrices inside the blocks, at `scale` times the rate of the others."""
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


def layer_groups(model: nn.Module, groups: list[Group], decay: float) -> list[Group]:
    """Split groups by depth: going down, each block's rate is `decay` times that of the one above.

    The head and the last norm keep the full rate, the embedding gets decay^(L + 1) of it, as in
    BEiT (https://arxiv.org/abs/2106.08254). With a decay of 1 the groups are returned as they are.
    """
    if decay == 1:
        return groups
    blocks = model.get_submodule("encoder.blocks").children()
    stages = [model.get_submodule("embedding"), *blocks]
    scales = {
        id(p): decay ** (len(stages) - i) for i, s in enumerate(stages) for p in s.parameters()
    }
    parts: dict[tuple[int, float], Group] = {}
    for i, group in enumerate(groups):
        for p in group["params"]:
            scale = scales.get(id(p), 1.0)
            new = {**group, "params": [], "scale": scale * group.get("scale", 1.0)}
            parts.setdefault((i, scale), new)["params"].append(p)
    return list(parts.values())
