"""Chapter 10: right styles and mistakes."""

import torch

from vit_tutorial.checks import check_entropy, check_patch_lens, check_same_row

RIGHT, WRONG = {}, {}


def entropy(maps):
    return -torch.special.xlogy(maps, maps).sum(dim=-1).mean(dim=-1) / torch.tensor(2.0).log()


def entropy_by_log2(maps):
    bits = torch.where(maps > 0, maps * maps.clamp(min=1e-30).log2(), 0.0)
    return -bits.sum(dim=-1).mean(dim=-1)


RIGHT[check_entropy] = [entropy, entropy_by_log2]
WRONG[check_entropy] = [
    (lambda maps: -torch.special.xlogy(maps, maps).sum(dim=-1).mean(dim=-1), "nats"),
    (lambda maps: -entropy(maps), "sign"),
    (lambda maps: entropy(maps[..., :1, :]), "class token alone"),
    (lambda maps: maps.shape[-1] * entropy(maps), "sum over readers"),
    (lambda maps: -(maps * maps.log2()).sum(dim=-1).mean(dim=-1), "nan|minus infinity"),
]


def same_row(similarity):
    rows, cols = similarity.shape[:2]
    same = torch.stack([similarity[r, :, r] for r in range(rows)])
    return same[:, ~torch.eye(cols, dtype=torch.bool)].mean()


def same_row_by_loops(s):
    R, C = s.shape[:2]
    found = [s[r, a, r, b] for r in range(R) for a in range(C) for b in range(C) if a != b]
    return torch.stack(found).mean()


RIGHT[check_same_row] = [same_row, same_row_by_loops]
WRONG[check_same_row] = [
    (lambda s: torch.stack([s[r, :, r] for r in range(len(s))]).mean(), "with itself"),
    (lambda s: same_row(s.permute(1, 0, 3, 2)), "one column"),
    (lambda s: s.mean(), "all pairs"),
]


def patch_lens(model, images):
    return model.head(model.encoder(model.embedding(images))[:, 1:])


def patch_lens_by_blocks(model, images):
    z = model.embedding(images)
    for block in model.encoder.blocks:
        z = block(z)
    return model.head(model.encoder.norm(z[:, 1:]))


RIGHT[check_patch_lens] = [patch_lens, patch_lens_by_blocks]
WRONG[check_patch_lens] = [
    (lambda m, x: m.head(m.encoder(m.embedding(x))), "class token is in it"),
    (lambda m, x: m.head(m.encoder(m.embedding(x))[:, :-1]), "drop the first"),
    (lambda m, x: m.head(m.embedding(x))[:, 1:], "before the first block"),
    (lambda m, x: m.head(m.encoder.blocks[1](m.encoder.blocks[0](m.embedding(x))))[:, 1:],
     "last norm"),
]  # fmt: skip
