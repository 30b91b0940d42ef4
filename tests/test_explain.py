"""Scores for patches and their curves, each against another route to the same answer."""

import math

import pytest
import torch
from torch.testing import assert_close

from vit_tutorial.explain import (
    area,
    class_token_logits,
    gradient_saliency,
    patch_curve,
    relevance,
)
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.patches import patchify

SHAPE = ViTConfig((4, 6), 2, 3, 5, layers=2, hidden_size=8, mlp_size=12, heads=2)
LABELS = torch.tensor([1, 4])
BLANK = torch.tensor([0.3, -0.2, 0.1]).double().view(3, 1, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VisionTransformer(SHAPE).double().eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 4, 6, dtype=torch.float64)


def test_the_saliency_of_a_patch_is_how_far_its_pixels_move_the_logit(model, images):
    found = gradient_saliency(model, images, LABELS)
    step, expected = 1e-6, torch.zeros(2, 3, 4, 6, dtype=torch.float64)
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(6)).tolist():
        moved = images.clone()
        moved[(slice(None), *place)] += step
        change = (model(moved) - model(images))[range(2), LABELS] / step
        expected[(slice(None), *place)] = change.detach().abs()
    assert_close(found, patchify(expected, 2).sum(dim=-1), rtol=1e-4, atol=1e-5)


def test_relevance_is_the_one_of_weights_and_gradients_by_finite_differences(model, images):
    model.encoder.blocks = model.encoder.blocks[:1]  # in one block the sum has one term
    block, z = model.encoder.blocks[0], model.embedding(images)
    q, k, v = block.attention.split_heads(block.norm1(z))
    weights = (q @ k.mT / math.sqrt(4)).softmax(dim=-1).detach()

    def logit(weights):
        read = (weights @ v).transpose(1, 2).flatten(2)
        after = z + block.attention.projection(read)
        after = after + block.mlp(block.norm2(after))
        return model.head(model.encoder.norm(after)[:, 0])[range(2), LABELS]

    slopes = torch.zeros_like(weights)
    for head in range(2):
        for token in range(7):
            moved = weights.clone()
            moved[:, head, 0, token] += 1e-6
            slopes[:, head, 0, token] = ((logit(moved) - logit(weights)) / 1e-6).detach()
    expected = (weights * slopes).clamp(min=0).mean(dim=1)[:, 0, 1:]
    assert_close(relevance(model, images, LABELS), expected, rtol=1e-4, atol=1e-6)


def test_a_curve_takes_the_highest_patches_away_and_puts_them_in(model, images):
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.2, 0.8, 0.0]] * 2)
    away, back = (
        patch_curve(model, images, LABELS, scores, (0, 2, 6), BLANK, insert)
        for insert in (False, True)
    )
    changed = images.clone()
    changed[:, :, 0:2, 2:4] = changed[:, :, 2:4, 2:4] = BLANK  # patches 2 and 5 of 6
    of_labels = lambda x: model(x).softmax(dim=-1)[range(2), LABELS].detach()  # noqa: E731
    assert_close(away[:, 1], of_labels(changed))
    assert_close(away[:, 0], of_labels(images))
    assert_close(away[:, 2], of_labels(BLANK.expand_as(images)))
    assert_close(back[:, [0, 2]], away[:, [2, 0]])
    left = BLANK.expand_as(images).clone()
    left[:, :, 0:2, 2:4], left[:, :, 2:4, 2:4] = images[:, :, 0:2, 2:4], images[:, :, 2:4, 2:4]
    assert_close(back[:, 1], of_labels(left))


def test_the_area_of_a_straight_fall_is_a_half():
    assert area(torch.tensor([1.0, 0.5, 0.0]), (0, 5, 10), 10) == 0.5


def test_the_last_stage_of_the_class_token_is_the_models_answer(model, images):
    stages = class_token_logits(model, images)
    assert stages.shape == (2, 3, 5)
    assert_close(stages[:, -1], model(images))
    assert_close(stages[0, 0], stages[1, 0])  # before the first block it has seen no image


def test_captums_saliency_is_ours(model, images):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    wanted = images.clone().requires_grad_()
    theirs = attr.Saliency(model).attribute(wanted, target=LABELS)
    assert_close(gradient_saliency(model, images, LABELS), patchify(theirs.detach(), 2).sum(dim=-1))


def test_grad_cam_runs_on_our_model_and_gives_its_formula(model, images):
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def as_grid(tokens):
        return tokens[:, 1:].unflatten(1, (2, 3)).permute(0, 3, 1, 2)

    layer, kept = model.encoder.blocks[-1].norm1, []
    goals = [ClassifierOutputTarget(label) for label in LABELS.tolist()]
    with library.GradCAM(model, [layer], reshape_transform=as_grid) as cam:
        theirs = torch.tensor(cam(images, goals))
    layer.register_forward_hook(lambda layer, x, y: kept.append(y))
    (gradient,) = torch.autograd.grad(model(images).gather(1, LABELS[:, None]).sum(), kept[0])
    shown, slopes = as_grid(kept[0].detach()), as_grid(gradient)
    ours = (slopes.mean(dim=(2, 3), keepdim=True) * shown).sum(dim=1, keepdim=True).clamp(min=0)
    for _ in range(2):  # scaled, smoothed to pixels, scaled again
        ours = ours - ours.amin(dim=(2, 3), keepdim=True)
        ours = ours / (1e-7 + ours.amax(dim=(2, 3), keepdim=True))
        ours = torch.nn.functional.interpolate(ours, (4, 6), mode="bilinear")
    assert theirs.std() > 0.1
    assert_close(theirs, ours[:, 0].to(theirs), rtol=1e-3, atol=1e-3)
