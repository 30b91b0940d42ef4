"""Training follows its recipe, repeats itself exactly, and can be taken up again exactly."""

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial import train as training
from vit_tutorial.data import Data, Split
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import (
    PRESETS,
    Step,
    TrainConfig,
    default_device,
    evaluate,
    model_config,
    parameter_groups,
    predictions,
    schedule,
    train,
    train_step,
)

K = 4
PER_EPOCH = 5  # batches of 8


def split(M, seed):
    """One of four pictures each, under noise: easy, but not trivial."""
    drawn = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 120, (K, 1, 8, 8), generator=torch.Generator().manual_seed(42))
    labels = torch.randint(K, (M,), generator=drawn)
    images = pictures[labels] + torch.randint(0, 120, (M, 1, 8, 8), generator=drawn)
    return Split(images.byte(), labels, torch.tensor([0.47]), torch.tensor([0.19]))


DATA = Data("pictures", split(40, 0), split(20, 1), split(20, 2), list("abcd"))


def model(dropout=0.0, classes=K, seed=0):
    torch.manual_seed(seed)
    shape = dict(layers=1, hidden_size=16, mlp_size=16, heads=2, dropout=dropout)
    return VisionTransformer(ViTConfig(8, 4, 1, classes, **shape))


def recipe(**changes):
    return TrainConfig(**{**dict(epochs=3, batch_size=8, learning_rate=1e-2), **changes})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def figures(epochs):
    """What a history says, but for how long it took."""
    return [(e.number, e.train_loss, e.val_loss, e.val_accuracy) for e in epochs]


def weights(of):
    return torch.cat([value.flatten() for value in of.state_dict().values()])


# ---- the schedule


def test_the_rate_starts_at_0_peaks_at_1_and_ends_at_0():
    assert schedule(0.0, 0.1) == 0
    assert schedule(0.1, 0.1) == 1
    assert schedule(1.0, 0.1) == pytest.approx(0, abs=1e-12)


@given(warmup=st.floats(0.01, 0.9))
def test_the_rate_never_jumps_and_has_one_peak(warmup):
    places = [i / 1000 for i in range(1001)]
    rates = [schedule(place, warmup) for place in places]
    steepest = max(1 / warmup, math.pi / 2 / (1 - warmup)) / 1000
    for place, before, after in zip(places[1:], rates, rates[1:], strict=False):
        assert abs(after - before) <= steepest * 1.001
        if place <= warmup:
            assert after > before
        elif place - 1e-3 >= warmup:
            assert after < before


@given(progress=st.floats(0, 1, exclude_max=True))
def test_the_warm_up_is_a_straight_line(progress):
    assert schedule(progress * 0.25, 0.25) == pytest.approx(progress)


def test_after_the_warm_up_the_rate_is_pytorchs_cosine():
    steps, warm = 50, 10
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warm)
    for step in range(warm, steps + 1):
        assert schedule(step / steps, warm / steps) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-9
        )
        optimizer.step()
        theirs.step()


def test_without_warm_up_the_rate_starts_at_its_peak():
    assert schedule(0.0, 0.0) == 1
    assert schedule(0.5, 0.0) == pytest.approx(0.5)


def test_the_optimizer_is_given_the_scheduled_rate_at_every_step(monkeypatch):
    rates, step = [], training.train_step

    def watched(model, optimizer, *rest):
        result = step(model, optimizer, *rest)
        rates.append([group["lr"] for group in optimizer.param_groups])
        return result

    monkeypatch.setattr(training, "train_step", watched)
    config = recipe(epochs=4, warmup=0.25)  # 20 steps, the first 5 of them warm up
    list(train(model(), DATA, config, seeded()))
    assert len(rates) == 20
    assert all(matrices == others for matrices, others in rates)
    applied = [matrices for matrices, _ in rates]
    assert applied[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    fall = [0.01 * (1 + math.cos(math.pi * i / 15)) / 2 for i in range(1, 16)]
    assert applied[5:] == pytest.approx(fall, abs=1e-12)


# ---- what is decayed


@pytest.mark.parametrize("changes", [{}, dict(pool="mean"), dict(representation_size=8)])
def test_parameter_groups_are_a_partition_that_decays_matrices_and_nothing_else(changes):
    made = VisionTransformer(ViTConfig(8, 4, 1, K, 2, 16, 32, 2, **changes))
    decayed, others = parameter_groups(made, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    found = [names[id(p)] for p in decayed["params"]], [names[id(p)] for p in others["params"]]
    assert sorted(found[0] + found[1]) == sorted(names.values())
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    for name in found[1]:
        kept = name.endswith((".bias", "class_token", "positions"))
        assert kept or ".norm" in name, name


def test_one_step_without_a_gradient_shrinks_the_matrices_alone():
    made = model()
    for parameter in made.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(made, 0.5), lr=0.1).step()
    matrices = {f"{name}.weight" for name, m in made.named_modules() if isinstance(m, nn.Linear)}
    assert len(matrices) == 1 + 4 + 1
    for name, parameter in made.named_parameters():
        expected = 1 - 0.1 * 0.5 if name in matrices else 1.0  # decoupled: the rate times decay
        assert_close(parameter, torch.full_like(parameter, expected))


# ---- a step


def batch():
    return DATA.train.normalise(DATA.train.images[:8].float() / 255), DATA.train.labels[:8]


def test_a_step_reports_the_loss_and_accuracy_before_its_update():
    made, (images, labels) = model(), batch()
    nn.init.normal_(made.head.weight)
    logits = made(images)
    expected = -logits.log_softmax(dim=1)[torch.arange(8), labels].mean()
    hits = sum(row.argmax().item() == label for row, label in zip(logits, labels, strict=True))
    optimizer = torch.optim.AdamW(made.parameters())
    loss, accuracy = train_step(made, optimizer, (images, labels), 1e-3, 1.0)
    assert_close(loss, expected.detach())
    assert accuracy.item() == hits / 8
    assert not torch.equal(made(images), logits)


def test_a_step_forgets_the_gradients_of_the_step_before():
    once, twice = model(), model()
    for made, steps in ((once, 1), (twice, 2)):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
        for _ in range(steps):
            train_step(made, optimizer, batch(), 0.0, 1e9)
    assert_close(once.head.weight.grad, twice.head.weight.grad)


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_all_gradients_together_are_cut_to_a_norm(clip):
    made = model()
    F.cross_entropy(made(batch()[0]), batch()[1]).backward()
    before = [p.grad.clone() for p in made.parameters()]
    norm = torch.cat([g.flatten() for g in before]).norm()
    assert norm > 0.01
    train_step(made, torch.optim.SGD(made.parameters(), lr=0.0), batch(), 0.0, clip)
    factor = min(1.0, clip / norm.item())
    for parameter, gradient in zip(made.parameters(), before, strict=True):
        assert_close(parameter.grad, factor * gradient, atol=1e-7, rtol=1e-4)


def test_one_batch_can_be_learned_by_heart():
    made, labels = model(), torch.randint(K, (8,))  # labels without rhyme or reason
    optimizer = torch.optim.AdamW(made.parameters())
    images = torch.randn(8, 1, 8, 8)
    losses = [train_step(made, optimizer, (images, labels), 1e-2, 1.0)[0] for _ in range(100)]
    assert losses[0].item() == pytest.approx(math.log(K))
    assert losses[-1] < 0.01


# ---- training


def test_training_learns():
    *_, last = train(model(), DATA, recipe(epochs=12, augment=0.0), seeded())
    assert last.val_accuracy == 1.0
    assert last.train_loss < 0.1
    assert last.val_loss < 0.2


def test_the_same_seed_gives_the_same_history():
    runs = [list(train(model(0.1), DATA, recipe(), seeded())) for _ in range(2)]
    assert figures(runs[0]) == figures(runs[1])
    other = list(train(model(0.1), DATA, recipe(), seeded(1)))
    assert figures(runs[0]) != figures(other)


@pytest.mark.parametrize("stop", [1, 2])
def test_training_resumed_from_a_state_equals_training_without_a_stop(stop):
    whole, halved = model(0.1), model(0.1)
    torch.manual_seed(7)  # of dropout; the resumed run must not depend on it
    uninterrupted = list(train(whole, DATA, recipe(), seeded()))
    torch.manual_seed(7)
    *_, last = islice(train(halved, DATA, recipe(), seeded()), stop)
    other = model(0.1, seed=9)  # as after a new start: nothing but the state is left
    rest = list(train(other, DATA, recipe(), seeded(99), state=last.state))
    assert figures(rest) == figures(uninterrupted[stop:])
    assert torch.equal(weights(other), weights(whole))


def test_a_state_survives_a_file(tmp_path):
    *_, last = islice(train(model(0.1), DATA, recipe(), seeded()), 1)
    torch.save(last.state.__dict__, tmp_path / "state.pt")
    read = training.State(**torch.load(tmp_path / "state.pt", weights_only=True))
    runs = [model(seed=1), model(seed=2)]
    for made, state in zip(runs, (last.state, read), strict=True):
        list(train(made, DATA, recipe(), seeded(), state=state))
    assert torch.equal(weights(runs[0]), weights(runs[1]))


def test_a_state_stays_as_it_was_while_training_goes_on():
    made = model()
    epochs = train(made, DATA, recipe(), seeded())
    first = next(epochs)
    then = weights(made).clone()
    momenta = [m["exp_avg"].clone() for m in first.state.optimizer["state"].values()]
    list(epochs)
    kept = torch.cat([value.flatten() for value in first.state.model.values()])
    assert torch.equal(kept, then)
    assert not torch.equal(kept, weights(made))
    for momentum, entry in zip(momenta, first.state.optimizer["state"].values(), strict=True):
        assert torch.equal(momentum, entry["exp_avg"])


def test_training_can_be_resumed_from_one_state_again_and_again():
    *_, last = islice(train(model(), DATA, recipe(), seeded()), 1)
    runs = [list(train(model(), DATA, recipe(), seeded(), state=last.state)) for _ in range(2)]
    assert figures(runs[0]) == figures(runs[1])


def test_resuming_a_finished_run_trains_no_further():
    *_, last = train(model(), DATA, recipe(), seeded())
    assert list(train(model(), DATA, recipe(), seeded(), state=last.state)) == []


def test_stopping_to_read_stops_the_training():
    made = model()
    epochs = train(made, DATA, recipe(), seeded())
    next(epochs)
    then = weights(made).clone()
    epochs.close()
    assert torch.equal(weights(made), then)


def test_a_record_says_what_evaluation_says_at_that_moment():
    made = model(dropout=0.3)
    for epoch in train(made, DATA, recipe(), seeded()):
        assert evaluate(made, DATA.val) == (epoch.val_loss, epoch.val_accuracy)
        assert epoch.seconds > 0


def test_the_training_loss_is_the_mean_over_the_epochs_steps():
    steps = []
    for epoch in train(model(), DATA, recipe(), seeded(), on_step=steps.append):
        mine = steps[-PER_EPOCH:]
        assert epoch.train_loss == pytest.approx(sum(s.loss for s in mine) / PER_EPOCH)
    assert [s.number for s in steps] == list(range(1, 3 * PER_EPOCH + 1))
    assert {s.steps for s in steps} == {3 * PER_EPOCH}
    assert all(0 <= s.accuracy <= 1 for s in steps)


def test_training_does_not_look_at_the_test_images():
    unfit = Split(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.zeros(2).long(),
                  torch.zeros(3), torch.ones(3))  # fmt: skip
    with pytest.raises(ValueError, match="expected images"):
        evaluate(model(), unfit)
    hidden = Data("pictures", DATA.train, DATA.val, unfit, DATA.classes)
    assert len(list(train(model(), hidden, recipe(epochs=1), seeded()))) == 1


@pytest.mark.parametrize("augment", [1.0, 0.0])
def test_training_images_are_augmented_if_asked_and_validation_images_never(augment):
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = model(), {True: [], False: []}

        def forward(self, images):
            self.seen[self.training].extend(image.numpy().tobytes() for image in images)
            return self.inner(images)

    watched = Watched()
    list(train(watched, DATA, recipe(epochs=1, augment=augment), seeded()))

    def as_they_are(split):
        return {x.numpy().tobytes() for x in split.normalise(split.images.float() / 255)}

    assert set(watched.seen[False]) == as_they_are(DATA.val)
    unchanged = len(set(watched.seen[True]) & as_they_are(DATA.train))
    assert unchanged == (0 if augment else 40)


def test_training_is_in_training_mode_after_each_validation_too():
    made, modes = model(), []
    for _ in train(made, DATA, recipe(), seeded(), on_step=lambda _: modes.append(made.training)):
        made.eval()  # as a caller who looks at pictures between epochs may do
    assert modes == [True] * 15


def test_the_recipe_says_how_strongly_images_are_augmented(monkeypatch):
    strengths = []

    def watched(images, generator, strength):
        strengths.append(strength)
        return images

    monkeypatch.setattr(training, "random_affine", watched)
    list(train(model(), DATA, recipe(epochs=1, augment=0.25), seeded()))
    assert strengths == [0.25] * PER_EPOCH


# ---- a loss that is not finite


def spoil(made, at):
    """An `on_step` that breaks the weights after one step."""

    def on_step(step: Step):
        if step.number == at:
            nn.init.constant_(made.head.bias, math.nan)

    return on_step


@pytest.mark.parametrize(
    ("broken_after", "named"),
    [(PER_EPOCH + 2, PER_EPOCH + 3), (PER_EPOCH + 1, PER_EPOCH + 2), (2 * PER_EPOCH,) * 2],
    ids=["in mid-epoch", "early in an epoch", "by the last step of an epoch"],
)
def test_a_loss_that_is_not_finite_stops_training_and_brings_back_the_last_good_state(
    broken_after, named
):
    made, drawn = model(0.1), seeded()
    epochs = train(made, DATA, recipe(), drawn, on_step=spoil(made, broken_after))
    good = next(epochs)
    then = weights(made).clone()
    with pytest.raises(ValueError, match=f"the loss became nan at step {named} .* epoch 1 left it"):
        next(epochs)
    assert torch.equal(weights(made), then)
    assert torch.equal(drawn.get_state(), good.state.generator)
    assert torch.equal(torch.get_rng_state(), good.state.dropout)


def test_a_loss_that_is_not_finite_at_once_leaves_the_model_as_it_was_given():
    made = model()
    then = weights(made).clone()
    with pytest.raises(ValueError, match="epoch 0 left it"):
        list(train(made, DATA, recipe(), seeded(), on_step=spoil(made, 1)))
    assert torch.equal(weights(made), then)


def test_a_rate_far_too_high_is_named():
    with pytest.raises(ValueError, match=r"became (nan|inf) at step \d+ \(learning rate 1e\+38\)"):
        list(train(model(), DATA, recipe(learning_rate=1e38, warmup=0.0, epochs=100), seeded()))


# ---- evaluation


def test_accuracy_is_a_share_of_all_images_and_no_mean_over_batches():
    made = model()
    nn.init.normal_(made.head.weight)
    images = DATA.val.normalise(DATA.val.images.float() / 255)
    logits = torch.cat([made(image[None]) for image in images])
    hits = [row.argmax() == label for row, label in zip(logits, DATA.val.labels, strict=True)]
    loss = -logits.log_softmax(dim=1).gather(1, DATA.val.labels[:, None]).mean().item()
    for batch_size in (1, 7, 19, 20, 1000):  # 7 leaves a last batch of 6, 19 one of 1
        got = evaluate(made, DATA.val, batch_size)
        assert got.accuracy == sum(hits).item() / 20
        assert got.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("mode", [True, False])
def test_evaluation_drops_nothing_and_leaves_the_model_in_its_mode(mode):
    made = model(dropout=0.5)
    nn.init.normal_(made.head.weight)
    made.train(mode)
    assert evaluate(made, DATA.val) == evaluate(made, DATA.val)
    assert made.training is mode


def test_predictions_come_in_the_order_of_the_images():
    made = model().eval()
    nn.init.normal_(made.head.weight)
    images = DATA.val.normalise(DATA.val.images.float() / 255)
    got = predictions(made, DATA.val, batch_size=6)
    assert_close(got, made(images).detach())
    assert not got.requires_grad


# ---- what a user can get wrong


def test_labels_that_the_model_has_no_logit_for_are_refused():
    message = r"labels must lie in 0\.\.1 for 2 classes, got \d\.\.3"
    with pytest.raises(ValueError, match=message):
        evaluate(model(classes=2), DATA.val)
    with pytest.raises(ValueError, match=message):
        list(train(model(classes=2), DATA, recipe(), seeded()))


def test_a_batch_larger_than_the_training_images_is_refused():
    with pytest.raises(ValueError, match="40 images do not fill a batch of 41"):
        list(train(model(), DATA, recipe(batch_size=41), seeded()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(epochs=0), "epochs must be above 0, got 0"),
        (dict(batch_size=-1), "batch_size must be above 0, got -1"),
        (dict(learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (dict(learning_rate=math.nan), "learning_rate must be above 0, got nan"),
        (dict(gradient_clip=0.0), "gradient_clip must be above 0, got 0.0"),
        (dict(warmup=1.0), r"warmup must lie in \[0, 1\), got 1.0"),
        (dict(warmup=-0.1), r"warmup must lie in \[0, 1\), got -0.1"),
        (dict(weight_decay=-0.1), "weight_decay must not be negative, got -0.1"),
        (dict(augment=-1.0), "augment must not be negative, got -1.0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


# ---- sizes and devices


def test_the_data_fix_image_size_channels_and_classes():
    wide = Split(torch.zeros(3, 3, 8, 12, dtype=torch.uint8), torch.arange(3),
                 torch.zeros(3), torch.ones(3))  # fmt: skip
    shape = dict(patch_size=4, layers=1, hidden_size=8, mlp_size=8, heads=2)
    config = model_config(Data("wide", wide, wide, wide, list("abc")), shape)
    assert (config.image_size, config.channels, config.classes) == ((8, 12), 3, 3)
    assert model_config(DATA, shape).image_size == 8


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_its_data_and_has_at_most_250_thousand_parameters(name):
    images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    ten = Split(images, torch.arange(10), torch.zeros(1), torch.ones(1))
    config = model_config(Data(name, ten, ten, ten, list("0123456789")), PRESETS[name].model)
    with torch.device("meta"):
        made = VisionTransformer(config)
    assert sum(parameter.numel() for parameter in made.parameters()) <= 250_000


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_is_the_default(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == torch.device(device)
