"""Chapter 09: right styles and mistakes."""

import torch

from vit_tutorial.checks import (
    check_attention_rollout,
    check_class_token_maps,
    check_disagreement,
    check_occlusion_map,
    check_reader_map,
)

RIGHT, WRONG = {}, {}
# ---- rollout


def rollout_in_a_loop(maps):
    B, L, _, T, _ = maps.shape
    result = torch.eye(T).expand(B, T, T)
    for layer in range(L):
        step = 0.5 * maps[:, layer].mean(1) + 0.5 * torch.eye(T)
        result = step @ result
    return result


def rollout_from_the_output_down(maps):
    eye = torch.eye(maps.shape[-1])
    steps = [(layer.mean(1) + eye) / 2 for layer in maps.unbind(1)]
    result = steps.pop()
    while steps:
        result = result @ steps.pop()
    return result


RIGHT[check_attention_rollout] = [rollout_in_a_loop, rollout_from_the_output_down]


def rolled(maps, fuse=lambda layer: layer.mean(1), eye=1.0, over=-1, normalise=True, left=True):
    """The method of most repositories, with places to go wrong."""
    result = torch.eye(maps.shape[-1]).repeat(len(maps), 1, 1)
    for layer in maps.unbind(1):
        step = fuse(layer) + eye * torch.eye(maps.shape[-1])
        step = step / step.sum(over, keepdim=True) if normalise else step
        result = step @ result if left else result @ step
    return result


WRONG[check_attention_rollout] = [
        (lambda maps: rolled(maps, eye=0.0), "the identity is left out"),
        (lambda maps: rolled(maps, over=-2), "the columns are normalised"),
        (lambda maps: rolled(maps, left=False), "multiplied in the wrong order"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer.sum(1)), "the heads are summed"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer.amax(1)), "the largest head was taken"),
        (lambda maps: rolled(maps[:, -1:]), "the last block alone"),
        (lambda maps: rolled(maps[:, :1]), "the first block alone"),
        (lambda maps: rolled(maps, normalise=False), "rows are not normalised"),
        (lambda maps: torch.stack([rolled(m[:, None]) for m in maps.unbind(1)]).mean(0),
         "the blocks are averaged"),
        (lambda maps: torch.stack([rolled(m[:, None]) for m in maps.unbind(1)]).prod(0),
         "element by element"),
        (lambda maps: rolled(maps.transpose(-2, -1)), "the maps are transposed before"),
        (lambda maps: rolled(maps)[:, 0], "the class token's row"),
        (lambda maps: rolled(maps).mT, "the result is transposed"),
        (lambda maps: rolled(maps, fuse=lambda layer: layer[:, 0]), "values are not"),
    ]  # fmt: skip

RIGHT[check_class_token_maps] = [
    lambda maps, rows, cols: maps[..., 0, 1:].reshape(*maps.shape[:-2], rows, cols),
    lambda maps, rows, cols: maps.select(-2, 0)[..., 1:].unflatten(-1, (rows, cols)),
]


def row_as_a_map(pick):
    return lambda maps, rows, cols: pick(maps).reshape(*maps.shape[:-2], rows, cols)


WRONG[check_class_token_maps] = [
    (row_as_a_map(lambda maps: maps[..., 1:, 0]), "this is column 0"),
    (row_as_a_map(lambda maps: maps[..., 0, :-1]), "the last patch was left out"),
    (row_as_a_map(lambda maps: maps[..., -1, 1:]), "the last patch's row"),
    (row_as_a_map(lambda maps: maps[..., 1, 1:]), "the first patch's row"),
    (row_as_a_map(lambda maps: maps.mean(-2)[..., 1:]), "mean over all readers"),
    (lambda maps, r, c: maps[..., 0, 1:].reshape(*maps.shape[:-2], c, r).mT, "down the columns"),
    (lambda maps, r, c: maps[..., 0, 1:].reshape(*maps.shape[:-2], c, r), "swapped"),
    (lambda maps, r, c: maps[..., 0, 1:], "lay the N weights out"),
    (row_as_a_map(lambda maps: (m := maps[..., 0, 1:]) / m.sum(-1, keepdim=True)), "sum to 1"),
    (
        row_as_a_map(lambda maps: (m := maps[..., 0, 1:]) / m.amax(-1, keepdim=True)),
        "largest value",
    ),
    (lambda maps, r, c: maps[0, 1:].reshape(r, c), "maps may have any number of axes"),
    (lambda maps, r, c: maps[:, :, 0, 1:].reshape(*maps.shape[:2], r, c), "any number of axes"),
]

RIGHT[check_disagreement] = [
    lambda rollout: (rollout.amax(dim=1) - rollout.amin(dim=1)).amax(dim=-1),
    lambda rollout: (rollout[:, :, None] - rollout[:, None]).flatten(1).max(dim=1).values,
]
WRONG[check_disagreement] = [
    (lambda r: (r.amax(2) - r.amin(2)).amax(-1), "readers are rows"),
    (lambda r: (r.amax(1) - r.amin(1)).mean(-1), "take the largest"),
    (lambda r: (r.amax(1) - r.amin(1)).max(), "one for each image"),
    (lambda r: r.std(1).amax(-1), "a standard deviation"),
    (lambda r: r.amax(1) - r.amin(1), "one number for each token"),
    (lambda r: r.amax((1, 2)) - r.amin((1, 2)), "values are not"),
]

RIGHT[check_reader_map] = [
    lambda w, rows, cols, row, col: w[1 + row * cols + col, 1:].reshape(rows, cols),
    lambda w, rows, cols, row, col: w[1:, 1:].reshape(rows, cols, rows, cols)[row, col],
]
WRONG[check_reader_map] = [
    (lambda w, R, C, r, c: w[r * C + c, 1:].view(R, C), "one token too early"),
    (lambda w, R, C, r, c: w[1:, 1 + r * C + c].reshape(R, C), "take its row"),
    (lambda w, R, C, r, c: w[1 + c * R + r, 1:].view(R, C), "along a row of the grid first"),
    (lambda w, R, C, r, c: w[1 + r * R + c, 1:].view(R, C), "row of the grid has `cols`"),
    (lambda w, R, C, r, c: w[1 + r * C + c, :-1].reshape(R, C), "class token, which comes first"),
    (lambda w, R, C, r, c: w[1 + r * C + c, 1:].reshape(C, R).T, "column by column"),
    (lambda w, R, C, r, c: w[0, 1:].reshape(R, C), "what the class token reads"),
    (lambda w, R, C, r, c: w[1 + r * C + c].reshape(R, C), "stopped with"),
]


def occlusion_one_by_one(model, normalise, pixels, label, P):
    rows, cols = pixels.shape[2] // P, pixels.shape[3] // P
    whole = model(normalise(pixels)).softmax(-1)[0, label]
    fall = torch.zeros(rows, cols)
    for n in range(rows * cols):
        i, j = divmod(n, cols)
        blank = pixels.clone()
        blank[:, :, i * P : i * P + P, j * P : j * P + P] = 0
        fall[i, j] = whole - model(normalise(blank)).softmax(-1)[0, label]
    return fall


def occlusion_in_one_batch(model, normalise, pixels, label, P):
    rows, cols = pixels.shape[2] // P, pixels.shape[3] // P
    keep = 1 - torch.eye(rows * cols).view(-1, 1, rows, cols)
    keep = keep.repeat_interleave(P, 2).repeat_interleave(P, 3)
    p = model(normalise(torch.cat([pixels, pixels * keep]))).softmax(dim=-1)[:, label]
    return (p[0] - p[1:]).view(rows, cols)


RIGHT[check_occlusion_map] = [occlusion_one_by_one, occlusion_in_one_batch]


def painted(model, normalise, pixels, label, P):
    return occlusion_one_by_one(model, lambda x: x, normalise(pixels), label, P)


def painting_the_input(model, normalise, pixels, label, P):
    fall = occlusion_one_by_one(model, normalise, pixels, label, P)
    pixels[..., :P, :P] = 0
    return fall


def staying_painted(model, normalise, pixels, label, P, ink=0.0, stay=True):
    rows, cols = pixels.shape[2] // P, pixels.shape[3] // P
    whole, fall, fresh = model(normalise(pixels)).softmax(-1)[0, label], [], pixels.clone()
    for n in range(rows * cols):
        pixels = pixels if stay else fresh.clone()
        y, x = n // cols * P, n % cols * P
        pixels[..., y : y + P, x : x + P] = ink
        fall.append(whole - model(normalise(pixels)).softmax(-1)[0, label])
    return torch.stack(fall).view(rows, cols)


WRONG[check_occlusion_map] = [
    (lambda *a: -occlusion_one_by_one(*a), "the sign is turned"),
    (painted, "paint the pixels first"),
    (
        lambda m, n, x, k, P: m(n(x)).softmax(-1)[0, k] - occlusion_in_one_batch(m, n, x, k, P),
        "what is left",
    ),
    (lambda *a: occlusion_one_by_one(*a).T, "rows and columns are swapped"),
    (
        lambda m, n, x, k, P: occlusion_in_one_batch(m, n, x, int(m(n(x)).argmax()), P),
        "the class `label`",
    ),
    (lambda m, n, x, k, P: occlusion_in_one_batch(m, lambda y: y, x, k, P), "never normalised"),
    (painting_the_input, "writes into its input `pixels`"),
    (lambda *a: occlusion_one_by_one(*a).abs(), "without abs"),
    (lambda *a: occlusion_one_by_one(*a).square(), "values are not"),
    (lambda m, n, x, k, P: staying_painted(m, n, x.clone(), k, P), "stay painted"),
    (lambda m, n, x, k, P: staying_painted(m, n, x.clone(), k, P, 1.0, False), "1, which is white"),
    (lambda m, n, x, k, P: occlusion_in_one_batch(m, n, x, k, P) / m(n(x)).softmax(-1)[0, k],
     "a share of the probability"),
    (lambda m, n, x, k, P: 1 - occlusion_in_one_batch(m, n, x, k, P) / m(n(x)).softmax(-1)[0, k],
     "this is a ratio"),
]  # fmt: skip

WRONG[check_reader_map] += [
    (lambda w, R, C, r, c: w[(1 + c * C + r) % len(w), 1:].view(R, C), "row and col are swapped"),
]


def some_blocks(maps, first=0, last=None):
    steps = (maps.mean(dim=2) + torch.eye(maps.shape[-1])) / 2
    total = torch.eye(maps.shape[-1])
    for step in steps[:, first:last].unbind(1):
        total = step @ total
    return total


WRONG[check_attention_rollout] += [
    (lambda maps: some_blocks(maps, last=-1), "the last block is left out"),
    (lambda maps: some_blocks(maps, first=1), "the first block is left out"),
    (lambda maps: some_blocks(maps) + torch.eye(maps.shape[-1]), "once more at the end"),
]
WRONG[check_attention_rollout] += [
    (lambda maps: rolled(0.9 * maps + 0.1 * torch.eye(maps.shape[-1]), eye=0.0), "weighs 0.1"),
]
