"""Chapter 15: right styles and mistakes."""

import torch

from vit_tutorial.checks import check_alone

RIGHT, WRONG = {}, {}


def alone(model, images, mode=False, back=True, cut=slice(None), measure=None, one=None):
    before = model.training
    model.train(mode)
    one = one or (lambda i: images[i : i + 1])
    single = torch.cat([model(one(i)) for i in range(len(images))])
    gap = (model(images) - single)[cut]
    if back:
        model.train(before)
    return measure(gap) if measure else gap.abs().max()


def alone_in_a_loop(model, images):
    before, worst = model.training, 0.0
    model.eval()
    together = model(images)
    for image, logits in zip(images, together, strict=True):
        worst = max(worst, (model(image[None])[0] - logits).abs().max().item())
    model.train(before)
    return worst


RIGHT[check_alone] = [alone, alone_in_a_loop]
WRONG[check_alone] = [
    (lambda m, x: alone(m, x, back=False), "left in another mode"),
    (lambda m, x: alone(m, x, mode=True), "expected"),
    (lambda m, x: alone(m, x, measure=lambda gap: gap.abs().mean()), "take the largest"),
    (lambda m, x: alone(m, x, measure=lambda gap: gap.max()), "may be negative"),
    (lambda m, x: alone(m, x, cut=slice(1)), "only the first image"),
    (lambda m, x: alone(m, x, cut=slice(-1, None)), "only the last image"),
    (lambda m, x: alone(m, x, measure=lambda gap: gap.norm()), "norm of all differences"),
    (lambda m, x: 0.0, "nothing ever differs"),
    (lambda m, x: alone(m, x, one=lambda i: x[i]), "keeps the axis B"),
    (lambda m, x: alone(m, x) < 1e-6, "should return a number|expected"),
]
