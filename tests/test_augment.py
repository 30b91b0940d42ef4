"""Augmentations change images as they say, turn them in pixels, and draw from their generator."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial.data import affine_places, random_affine
from vit_tutorial.lab import augment as augmenting
from vit_tutorial.lab.augment import (
    AUGMENTATIONS,
    change_colours,
    cutmix,
    random_elastic,
    random_mirror,
    random_photo,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values())
def test_augmentation_draws_from_the_generator_and_nowhere_else(augment):
    images, before = torch.rand(8, 1, 12, 12), torch.get_rng_state()
    same, again = (augment(images, generator(1)) for _ in range(2))
    assert torch.equal(same, again)
    assert not torch.equal(same, augment(images, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", AUGMENTATIONS.values())
def test_every_image_of_a_batch_is_changed_by_its_own_amount(augment):
    image = torch.rand(1, 3, 15, 15)
    changed = augment(image.repeat(16, 1, 1, 1), generator())
    assert len(changed.flatten(1).unique(dim=0)) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("augment", AUGMENTATIONS.values())
def test_at_strength_0_every_image_stays_as_it_is(augment, dtype):
    images = torch.rand(4, 3, 12, 16, dtype=dtype)
    assert_close(augment(images, generator(), 0.0), images, atol=1e-5, rtol=1e-5)


def test_half_of_the_images_are_mirrored_and_all_changed_as_without():
    images, seed = torch.rand(400, 1, 8, 8), generator(3)
    mirrored = torch.rand(400, 1, 1, 1, generator=seed) < 0.5
    expected = random_affine(torch.where(mirrored, images.flip(-1), images), seed)
    assert_close(random_mirror(images, generator(3)), expected)
    assert 150 < mirrored.sum() < 250


RECORDED = {  # three pixels of three images that the first version gave
    random_elastic: [0.704791, 0.637126, 0.419081, 0.737622, 0.351698, 0.216447, 0.419282, 0.561182,
                     0.258639],
    random_photo: [1.0, 0.542686, 0.0, 0.752445, 0.806055, 0.167178, 0.188365, 0.278618, 0.249657],
}  # fmt: skip


@pytest.mark.parametrize("augment", RECORDED)
def test_a_seed_gives_the_figures_that_it_always_gave(augment):
    images = torch.rand(3, 3, 12, 12, generator=generator(5))
    changed = augment(images, generator(1), 0.8)[:, :, 5, 7].flatten()
    assert changed.tolist() == pytest.approx(RECORDED[augment], abs=1e-5)


@pytest.mark.parametrize("augment", [random_elastic, random_photo])
def test_square_images_are_changed_as_by_matrices_without_pixels_to_the_bit(augment, monkeypatch):
    images = torch.rand(32, 3, 28, 28)
    now = augment(images, generator())
    before = lambda images, matrices: F.affine_grid(  # noqa: E731
        matrices.to(images), list(images.shape), align_corners=False
    )
    monkeypatch.setattr(augmenting, "affine_places", before)
    assert torch.equal(augment(images, generator()), now)


def ramps(B, H, W):
    """Images whose two channels say where a pixel lies: right and down, in pixels."""
    y, x = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing="ij")
    return torch.stack([x, y]).expand(B, 2, H, W).double()


# ---- elastic


def test_an_elastic_change_bends_what_an_affine_one_leaves_straight():
    line = torch.zeros(100, 1, 29, 29)
    line[..., 14, 4:25] = 1

    def bent(images):
        """How far the middles of the columns lie from the best straight line, in pixels."""
        x, y = torch.arange(8.0, 21), torch.arange(29.0)[:, None]
        middles = ((images * y).sum(dim=1) / images.sum(dim=1))[:, 8:21]
        straight = torch.stack([x, torch.ones_like(x)], dim=1)
        return (middles.T - straight @ torch.linalg.lstsq(straight, middles.T).solution).std(dim=0)

    affine, elastic = (f(line, generator())[:, 0] for f in (random_affine, random_elastic))
    assert bent(affine).max() < 0.2
    assert 0.2 < bent(elastic).median() < 0.8
    half = random_elastic(line, generator(), 0.5)[:, 0]
    assert bent(half).median() < 0.7 * bent(elastic).median()


def test_an_elastic_change_moves_neighbours_together():
    ramp = torch.linspace(0, 1, 57).repeat(1, 1, 57, 1).repeat(20, 1, 1, 1)
    changed = random_elastic(ramp, generator(), 0.5)[:, 0, 10:-10, 10:-10]
    assert changed.diff(dim=1).abs().max() < 0.05  # one step of the ramp is 0.018
    assert changed.diff(dim=2).abs().max() < 0.06


@pytest.mark.parametrize(("H", "W"), [(40, 40), (40, 120), (120, 40)])
def test_images_that_are_not_square_are_bent_as_much_as_square_ones_along_both_sides(
    H, W, monkeypatch
):
    still = lambda B, generator, strength: torch.eye(2, 3).repeat(B, 1, 1)  # noqa: E731
    monkeypatch.setattr(augmenting, "random_matrices", still)
    moved = (random_elastic(ramps(400, H, W), generator()) - ramps(400, H, W))[..., 6:-6, 6:-6]
    assert 0.036 * 40 < moved.abs().max() < 1.5 * 0.036 * 40  # the cubic overshoots its nodes
    assert moved.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.716, 0.716], abs=0.01)
    for way in (2, 3):  # per pixel, right and down
        assert moved.diff(dim=way).std(dim=(0, 2, 3)).tolist() == pytest.approx(
            [0.148, 0.148], abs=0.005
        )


# ---- photographs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_a_changed_photo_keeps_its_type_and_stays_between_black_and_white(strength, dtype):
    images = torch.rand(300, 3, 16, 24).to(dtype)
    changed = random_photo(images, generator(), strength)
    assert changed.shape == images.shape
    assert changed.dtype == dtype
    assert 0 <= changed.min() < changed.max() <= 1
    assert 0.4 < changed.float().mean() < 0.52  # darker: what is bright may be inverted


def test_half_of_the_photos_are_mirrored():
    images = torch.zeros(1000, 3, 16, 16)
    images[..., 8:] = 1
    changed = random_photo(images, generator())
    left, right = changed[..., :8].mean(dim=(1, 2, 3)), changed[..., 8:].mean(dim=(1, 2, 3))
    assert 0.4 < (left > right).float().mean() < 0.6


def test_a_crop_moves_a_photo_by_whole_pixels_up_to_an_eighth_of_its_side(monkeypatch):
    monkeypatch.setattr(augmenting, "change_colours", lambda images, amounts: images)
    images = torch.zeros(600, 1, 16, 32)
    images[:, 0, 8, 15:17] = 1  # mirrored, it lies where it lay
    moved = random_photo(images, generator())[:, 0]
    sharp = ((moved - moved.round()).abs() < 1e-4).all(dim=1).all(dim=1)  # neither turned nor bent
    assert 0.3 < sharp.float().mean() < 0.55
    _, down, right = moved[sharp].round().nonzero().unbind(dim=1)
    assert sorted(set(down.tolist())) == [6, 7, 8, 9, 10]
    assert (right.min().item(), right.max().item()) == (15 - 4, 16 + 4)


def test_each_photo_is_changed_in_two_of_eight_ways(monkeypatch):
    seen = []

    def watched(images, amounts):
        seen.append(amounts)
        return images

    monkeypatch.setattr(augmenting, "change_colours", watched)
    random_photo(torch.rand(4000, 1, 2, 2), generator(), 0.5)
    assert (seen[0] != 0).sum(dim=0).unique().tolist() == [0, 1, 2]
    assert (seen[0] != 0).float().mean(dim=1).tolist() == pytest.approx([1 / 4] * 5, abs=0.03)
    assert seen[0].abs().max().item() == pytest.approx(0.5, abs=0.01)


def test_colours_are_changed_as_the_amounts_say():
    image = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1).repeat(1, 1, 3, 3)
    image[0, :, 1, 1] = 0.3
    ways = change_colours(image.repeat(6, 1, 1, 1), torch.eye(5, 6) * torch.tensor(
        [1, -1, -1, -1, 1, 0]))  # fmt: skip
    assert_close(ways[0], 1.5 * image[0])
    assert_close(ways[1], (image[0] + image.mean()) / 2)
    assert_close(ways[2], (image[0] + image[0].mean(dim=0)) / 2)
    assert_close(ways[3, :, 1, 1], image[0].mean(dim=(1, 2)))  # of its 3 x 3 neighbours
    assert_close(ways[4], torch.where(image[0] > 0.5, 1 - image[0], image[0]))
    assert_close(ways[5], image[0])


def test_a_grey_photo_stays_grey():
    changed = random_photo(torch.rand(64, 1, 8, 8).repeat(1, 3, 1, 1), generator())
    assert_close(changed, changed[:, :1].expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("H", "W"), [(64, 128), (128, 64), (96, 96)])
def test_a_photo_is_turned_and_sheared_in_pixels(H, W, monkeypatch):
    seen = []
    monkeypatch.setattr(augmenting, "change_colours", lambda images, amounts: images)
    monkeypatch.setattr(
        augmenting, "affine_places", lambda *given: seen.append(given[1]) or affine_places(*given)
    )
    middle = random_photo(ramps(300, H, W), generator())
    middle = middle[..., H // 2 - 6 : H // 2 + 6, W // 2 - 6 : W // 2 + 6]
    down, right = (middle.diff(dim=d).mean(dim=(2, 3)) for d in (2, 3))
    found = torch.stack([right, down], dim=2)  # (B 2 2), columns: one step to the right, one down
    assert_close(found, seen[0][..., :2].double(), atol=1e-4, rtol=0)
    dice = generator()
    ways = torch.rand(8, 300, generator=dice).argsort(dim=0) < 2
    amounts = ways * (torch.rand(8, 300, generator=dice) * 2 - 1)
    only_turned = (amounts[1:3] == 0).all(dim=0)
    squares = (found.mT @ found)[only_turned]  # right angles and lengths stay
    assert_close(squares, torch.eye(2).double().expand_as(squares), atol=1e-4, rtol=0)
    angle = torch.atan2(-found[:, 0, 1], found[:, 1, 1]).rad2deg()[only_turned]
    assert_close(angle, 30 * amounts[0, only_turned].double(), atol=1e-2, rtol=0)
    assert 25 < angle.abs().max() <= 30.01


# ---- cutmix


def numbered_mix(B=64, alpha=1.0, seed=0):
    """Images whose pixels are their number, which is their class too, mixed."""
    images = torch.arange(float(B)).view(-1, 1, 1, 1).repeat(1, 2, 8, 12)
    return cutmix(images, torch.arange(B), B, generator(seed), alpha)


def test_soft_labels_are_the_shares_of_the_area():
    mixed, soft = numbered_mix()
    for n in range(64):
        assert_close(soft[n], torch.bincount(mixed[n, 0].long().flatten(), minlength=64) / 96)
    assert_close(soft.sum(dim=1), torch.ones(64))


def test_what_is_pasted_is_one_box_of_the_same_place_in_another_image():
    images = torch.rand(64, 2, 8, 12)
    mixed, _ = cutmix(images, torch.arange(64), 64, generator())
    numbers, _ = numbered_mix()
    own = torch.arange(64).view(-1, 1, 1)
    pasted = numbers[:, 0] != own  # (B H W)
    rows, columns = pasted.any(dim=2), pasted.any(dim=1)
    assert torch.equal(pasted, rows[:, :, None] & columns[:, None, :])
    for side in (rows, columns):
        assert (side.byte().diff(dim=1, prepend=side[:, :1] * 0).eq(1).sum(dim=1) <= 1).all()
    for n, image in enumerate(mixed):
        other = images[int(numbers[n, 0][pasted[n]][0])] if pasted[n].any() else images[n]
        assert torch.equal(image, torch.where(pasted[n], other, images[n]))


def test_every_image_has_a_box_of_its_own_drawn_from_the_generator_alone():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    (mixed, soft), (again, _), (other, _) = numbered_mix(), numbered_mix(), numbered_mix(seed=1)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)
    assert len(soft.amax(dim=1).unique()) > 16
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002


def test_a_small_alpha_pastes_a_whole_image_or_nothing_a_large_one_half():
    little, half = (1 - numbered_mix(512, alpha)[1].diagonal() for alpha in (0.01, 100.0))
    assert 0.4 < (little == 0).float().mean() < 0.6
    assert little.max() > 0.9  # a box in the middle; the border cuts off part of any other
    assert 0.15 < half.mean() < 0.5
    assert 0.4 < half.max() < 0.65


def test_soft_labels_go_into_the_loss_and_keep_the_images_type():
    images, labels = torch.rand(8, 3, 4, 4, dtype=torch.float64), torch.arange(8) % 3
    mixed, soft = cutmix(images, labels, 3, generator())
    assert mixed.dtype == soft.dtype == torch.float64
    torch.nn.functional.cross_entropy(torch.randn(8, 3).double(), soft, label_smoothing=0.1)


def test_an_alpha_of_0_is_refused():
    with pytest.raises(ValueError, match="a <= 0"):
        numbered_mix(alpha=0.0)


def test_a_model_with_more_classes_than_the_data_gets_a_share_for_each_of_its_logits():
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 3
    mixed, soft = cutmix(images, labels, 10, generator())
    fewer = cutmix(images, labels, 3, generator())
    assert torch.equal(mixed, fewer[0])
    assert torch.equal(soft, F.pad(fewer[1], (0, 7)))
    F.cross_entropy(torch.randn(16, 10), soft)
