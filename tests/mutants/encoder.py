"""Chapter 06: right styles and mistakes."""

import torch
from torch import nn

from vit_tutorial.checks import check_block, check_lens, check_merge, check_walk_without

RIGHT, WRONG = {}, {}
# ---- a block


def block_in_two_lines(z, norm1, attention, norm2, mlp):
    z = z + attention(norm1(z))
    return z + mlp(norm2(z))


def block_with_names(z, norm1, attention, norm2, mlp):
    residual = z
    z = attention(norm1(z)) + residual
    residual = z
    return residual + mlp(norm2(z))


def block_in_place(z, norm1, attention, norm2, mlp):
    z += attention(norm1(z))
    z += mlp(norm2(z))
    return z


RIGHT[check_block] = [block_in_two_lines, block_with_names, block_in_place]


def block_after_the_transformer_of_2017(z, norm1, attention, norm2, mlp):
    z = norm1(z + attention(z))
    return norm2(z + mlp(z))


def block_that_forgets_its_stream(z, norm1, attention, norm2, mlp):
    z = norm1(z)
    z = z + attention(z)
    z = norm2(z)
    return z + mlp(z)


def block_whose_second_residual_is_the_input(z, norm1, attention, norm2, mlp):
    residual = z
    z = attention(norm1(z)) + residual
    return mlp(norm2(z)) + residual


WRONG[check_block] = [
        (block_after_the_transformer_of_2017, "this is post-norm"),
        (block_that_forgets_its_stream, "the residual adds the normalised input"),
        (lambda z, n1, a, n2, m: (u := n1(z) + a(n1(z))) + m(n2(u)), "adds the normalised input"),
        (lambda z, n1, a, n2, m: (u := n2(z + a(n1(z)))) + m(u), "adds the normalised input"),
        (lambda z, n1, a, n2, m: m(n2(z + a(n1(z)))), "the second residual is missing"),
        (lambda z, n1, a, n2, m: (u := a(n1(z))) + m(n2(u)), "the first residual is missing"),
        (lambda z, n1, a, n2, m: m(n2(a(n1(z)))), "no residual at all"),
        (lambda z, n1, a, n2, m: z + m(n2(a(n1(z)))), "only one residual"),
        (block_whose_second_residual_is_the_input, "starts from the block's input"),
        (lambda z, n1, a, n2, m: (u := z + a(n1(z))) + m(u), "the MLP reads the stream as it is"),
        (lambda z, n1, a, n2, m: (u := z + a(z)) + m(n2(u)), "attention reads the stream as it is"),
        (lambda z, n1, a, n2, m: (u := z + a(z)) + m(u), "no norm at all"),
        (lambda z, n1, a, n2, m: z + a(n1(z)) + m(n2(z)), "side by side"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n2, a, n1, m), "the norms are mixed up"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n1, a, n1, m), "the norms are mixed up"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n2, m, n1, a), "MLP comes before attention"),
        (lambda z, n1, a, n2, m: (u := z + n1(a(z))) + n2(m(u)), "the norms stand behind"),
        (lambda z, n1, a, n2, m: z + a(n1(z)), "Equation 2 alone"),
        (lambda z, n1, a, n2, m: block_in_two_lines(z, n1, a, n2, m) / 2, "values are not"),
    ]  # fmt: skip


RIGHT[check_block].remove(block_in_place)
WRONG[check_block] += [
    (block_in_place, "writes into its input `z`"),
    (lambda z, n1, a, n2, m: z + m(n2(z)), "Equation 3 alone"),
    (lambda z, n1, a, n2, m: n2(block_in_two_lines(z, n1, a, n2, m)), "once more at the end"),
    (
        lambda z, n1, a, n2, m: block_in_two_lines(z.detach(), n1, a, n2, m),
        "no gradient reaches `z`",
    ),
    (lambda z, n1, a, n2, m: (u := z + a(n1(z))).detach() + m(n2(u)), "gradient of `z` is not|`"),
    (lambda z, n1, a, n2, m: (u := z + a(n1(z)).data) + m(n2(u)), "gradient"),
    (lambda z, n1, a, n2, m: z + a(n1(z)) + a(n1(z)), "values are not"),
    (lambda z, n1, a, n2, m: (u := z + torch.relu(a(n1(z)))) + m(n2(u)), "values are not"),
    (lambda z, n1, a, n2, m: z[:1] + a(n1(z[:1])), "expected"),
]
WRONG[check_block][:] = [
    (fn, {"the norms stand behind": "the norms stand behind"}.get(hint, hint))
    for fn, hint in WRONG[check_block]
]


def walk_by_loop(encoder, z, left_out):
    for i, block in enumerate(encoder.blocks):
        if i != left_out:
            z = block(z)
    return encoder.norm(z)


def walk_by_a_list(encoder, z, left_out):
    blocks = list(encoder.blocks)
    if left_out is not None:
        del blocks[left_out]
    return nn.Sequential(*blocks, encoder.norm)(z)


RIGHT[check_walk_without] = [walk_by_loop, walk_by_a_list]


def walked(encoder, z, keep, norm=True):
    for i, block in enumerate(encoder.blocks):
        z = block(z) if keep(i) else z
    return encoder.norm(z) if norm else z


def without_module(encoder, left_out):
    if left_out is not None:
        del encoder.blocks[left_out]
    return encoder


def twice_added(encoder, z, left_out):
    for i, block in enumerate(encoder.blocks):
        z = z + block(z) if i != left_out else z
    return z


WRONG[check_walk_without] = [
    (lambda e, z, o: walked(e, z, lambda i: i != o, norm=False), "the last norm is missing"),
    (lambda e, z, o: walked(e, z, lambda i: o is None or i != o - 1), "counted from 0"),
    (lambda e, z, o: walked(e, z, lambda i: o is None or i != o + 1), "the block after it"),
    (lambda e, z, o: walked(e, z, lambda i: not (o and i == o)), "0 counts as false"),
    (lambda e, z, o: walk_by_loop(without_module(e, o), z, None), "takes parts out of `e`"),
    (lambda e, z, o: e.norm(twice_added(e, z, o)), "both of its own inside"),
    (lambda e, z, o: nn.Sequential(*e.blocks[:o], *e.blocks[o + 1 :], e.norm)(z),
     "left_out=None all blocks run"),
    (lambda e, z, o: e(z), "no block is left out"),
    (lambda e, z, o: walked(e, z, lambda i: o is None or i == o), "one block alone"),
    (lambda e, z, o: walked(e, z, lambda i: o is None or i < o), "ends where the block"),
    (lambda e, z, o: walk_by_loop(e, torch.zeros_like(z), o), "starts from zero"),
    (lambda e, z, o: e.norm(sum(b(z) for i, b in enumerate(e.blocks) if i != o)), "values are not"),
]  # fmt: skip


@torch.no_grad()
def merged_in_place(first, second):
    merged = nn.Linear(first.in_features, second.out_features)
    merged.weight.copy_(second.weight @ first.weight)
    merged.bias.copy_(second(first.bias))
    return merged


def merged_by_parameters(first, second, weight=None, bias=None):
    merged = nn.Linear(first.in_features, second.out_features)
    weight = second.weight @ first.weight if weight is None else weight
    bias = second.weight @ first.bias + second.bias if bias is None else bias
    merged.weight, merged.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return merged


RIGHT[check_merge] = [merged_in_place, merged_by_parameters]


def writing_into_the_first(first, second):
    merged = merged_by_parameters(first, second)
    with torch.no_grad():
        first.weight.zero_()
    return merged


def merged_with_gradients_on(first, second):
    merged = nn.Linear(first.in_features, second.out_features)
    merged.weight.copy_(second.weight @ first.weight)
    merged.bias.copy_(second(first.bias))
    return merged


WRONG[check_merge] = [
    (lambda a, b: merged_by_parameters(a, b, a.weight @ b.weight), "the other way round"),
    (lambda a, b: merged_by_parameters(a, b, (b.weight @ a.weight).T), "the weight is transposed"),
    (lambda a, b: merged_by_parameters(a, b, bias=b.bias), "first's bias goes through second"),
    (lambda a, b: merged_by_parameters(a, b, bias=b.weight @ a.bias), "second's own bias"),
    (lambda a, b: merged_by_parameters(a, b, bias=torch.zeros_like(b.bias)), "the bias is zero"),
    (lambda a, b: b.weight @ a.weight, "should return an nn.Linear, not Tensor"),
    (lambda a, b: nn.Sequential(a, b), "should return an nn.Linear, not Sequential"),
    (lambda a, b: nn.Linear(a.in_features, b.out_features, bias=False), "has no bias"),
    (lambda a, b: nn.Linear(a.in_features, b.out_features), "values are not"),
    (writing_into_the_first, "writes into its input `first`"),
    (merged_with_gradients_on, "with torch.no_grad"),
    (lambda a, b: merged_by_parameters(a, b, bias=3 * b.bias), "the weight is right"),
    (lambda a, b: merged_by_parameters(a, b, weight=2 * b.weight @ a.weight), "the bias is right"),
]


def lens_in_a_loop(model, images):
    z, logits = model.embedding(images), []
    for block in model.encoder.blocks:
        z = block(z)
        logits.append(model.head(model.encoder.norm(z)[:, 0]))
    return torch.stack(logits)


def lens_from_the_start_each_time(model, images):
    readings = []
    for last in range(len(model.encoder.blocks)):
        z = model.embedding(images)
        for block in model.encoder.blocks[: last + 1]:
            z = block(z)
        readings.append(model.head(model.encoder.norm(z))[:, 0])
    return torch.stack(readings)


RIGHT[check_lens] = [lens_in_a_loop, lens_from_the_start_each_time]


def lens(model, images, norm=True, read=lambda z: z[:, 0], before=False, also=False):
    z, logits = model.embedding(images), []
    for block in model.encoder.blocks:
        if before or (also and not logits):
            logits.append(z)
        z = block(z)
        if not before:
            logits.append(z)
    return torch.stack([model.head(read(model.encoder.norm(z) if norm else z)) for z in logits])


def normed_in_the_stream(model, images):
    z, logits = model.embedding(images), []
    for block in model.encoder.blocks:
        z = model.encoder.norm(block(z))
        logits.append(model.head(z[:, 0]))
    return torch.stack(logits)


WRONG[check_lens] = [
    (lambda m, x: lens(m, x, norm=False), "the last norm is missing"),
    (lambda m, x: lens(m, x, also=True), "start after the first block"),
    (lambda m, x: lens(m, x, before=True), "before each block"),
    (lambda m, x: lens(m, x, read=lambda z: z.mean(1)), "mean over the tokens"),
    (lambda m, x: lens(m, x, read=lambda z: z[:, -1]), "the last token is read"),
    (lambda m, x: m(x), "after the last block only"),
    (lambda m, x: lens(m, x).transpose(0, 1), "the blocks come first"),
    (normed_in_the_stream, "written into the stream"),
    (lambda m, x: lens(m, x).softmax(-1), "these are probabilities"),
    (lambda m, x: [m(x)], "should return a tensor, not list"),
]
