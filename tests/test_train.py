"""The lesson's training follows its recipe, learns, and repeats itself exactly."""

import copy
import dataclasses
import gc
import math
import weakref
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_files import DATA, ENOUGH, PER_EPOCH, K, figures, model, seeded, split, weights
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from vit_tutorial import train as training
from vit_tutorial.data import Data, Split
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import (
    Epoch,
    TrainConfig,
    default_device,
    evaluate,
    fit,
    parameter_groups,
    predictions,
    schedule,
    train,
)


def recipe(**changes):
    return TrainConfig(**{**dict(epochs=3, batch_size=8, learning_rate=1e-2), **changes})


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
    rates, set_rate = [], training.set_rate

    def watched(optimizer, rate):
        set_rate(optimizer, rate)
        rates.append([group["lr"] for group in optimizer.param_groups])

    monkeypatch.setattr(training, "set_rate", watched)
    config = recipe(epochs=4, warmup=0.25)  # 20 steps, the first 5 of them warm up
    list(train(model(), DATA, config, seeded()))
    assert len(rates) == 20
    assert all(matrices == others for matrices, others in rates)
    applied = [matrices for matrices, _ in rates]
    assert applied[:5] == pytest.approx([0.001, 0.003, 0.005, 0.007, 0.009])
    fall = [0.01 * (1 + math.cos(math.pi * (i + 0.5) / 15)) / 2 for i in range(15)]
    assert applied[5:] == pytest.approx(fall, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_every_step_learns_even_the_only_one(warmup, monkeypatch):
    made, seen, set_rate = model(), [], training.set_rate
    before = weights(made).clone()

    def watched(optimizer, rate):
        seen.append(weights(made).clone())
        set_rate(optimizer, rate)

    monkeypatch.setattr(training, "set_rate", watched)
    list(train(made, DATA, recipe(epochs=1, batch_size=40, warmup=warmup), seeded()))
    assert len(seen) == 1
    assert not torch.equal(weights(made), before)
    list(train(made, DATA, recipe(epochs=2, warmup=warmup), seeded()))
    path = [*seen[1:], weights(made)]
    assert all(not torch.equal(a, b) for a, b in pairwise(path))


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


# ---- training


def test_training_learns():
    *_, last = train(model(), ENOUGH, recipe(epochs=5, augment=0.0), seeded())
    assert last.val_accuracy == 1.0
    assert last.train_loss < 0.1
    assert last.val_loss < 0.2


def test_the_same_seed_gives_the_same_history():
    runs = [list(train(model(0.1), DATA, recipe(), seeded())) for _ in range(2)]
    assert figures(runs[0]) == figures(runs[1])
    other = list(train(model(0.1), DATA, recipe(), seeded(1)))
    assert figures(runs[0]) != figures(other)


def test_the_loop_is_the_steps_that_its_text_says():
    """Written out: shuffled batches, the rate, forward, backward, clip, AdamW."""
    config = recipe(epochs=2, augment=0.0, gradient_clip=0.1)
    told, ours, generator = list(train(model(), DATA, config, seeded())), model(), seeded()
    optimizer = torch.optim.AdamW(parameter_groups(ours, config.weight_decay))
    step = 0
    for epoch in told:
        losses = []
        order = torch.randperm(40, generator=generator)
        for rows in order.split(8):
            images = DATA.train.normalise(DATA.train.images[rows].float() / 255)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * schedule((step + 0.5) / 10, 0.1)
            scores = ours.train()(images).log_softmax(dim=1)
            loss = -scores[torch.arange(8), DATA.train.labels[rows]].mean()
            ours.zero_grad()
            loss.backward()
            norm = torch.cat([p.grad.flatten() for p in ours.parameters()]).norm()
            for p in ours.parameters():
                p.grad *= min(1.0, 0.1 / norm.item())
            optimizer.step()
            losses.append(loss.item())
            step += 1
        assert epoch.train_loss == pytest.approx(sum(losses) / 5, rel=1e-4)
        assert epoch.val_loss == pytest.approx(evaluate(ours, DATA.val).loss, rel=1e-3)


def test_the_plain_pass_is_the_loop_without_schedule_clipping_augmentation_and_groups(monkeypatch):
    data, plain = dataclasses.replace(DATA, train=split(300, 0)), model()
    looped = copy.deepcopy(plain)
    monkeypatch.setattr(training, "schedule", lambda progress, warmup: 1.0)
    # one implementation of AdamW for both, since each rounds in its own way
    usual = torch.optim.AdamW
    fused = lambda *given, **named: usual(*given, **(named | {"fused": True}))  # noqa: E731
    monkeypatch.setattr(torch.optim, "AdamW", fused)
    everything = [{"params": list(looped.parameters()), "weight_decay": 0.01}]
    monkeypatch.setattr(training, "parameter_groups", lambda model, decay: everything)
    config = TrainConfig(epochs=1, batch_size=128, gradient_clip=math.inf, augment=0.0)
    (epoch,) = train(looped, data, config, seeded(3))
    assert fit(plain, data, seed=3) == epoch.val_accuracy
    assert torch.equal(weights(plain), weights(looped))


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


def test_the_recipe_says_how_strongly_images_are_augmented(monkeypatch):
    strengths = []

    def watched(images, generator, strength):
        strengths.append(strength)
        return images

    monkeypatch.setattr(training, "random_affine", watched)
    list(train(model(), DATA, recipe(epochs=1, augment=0.25), seeded()))
    assert strengths == [0.25] * PER_EPOCH


def test_training_is_in_training_mode_after_each_validation_too(monkeypatch):
    made, modes, set_rate = model(), [], training.set_rate
    watched = lambda *a: (modes.append(made.training), set_rate(*a))  # noqa: E731
    monkeypatch.setattr(training, "set_rate", watched)
    for _ in train(made, DATA, recipe(), seeded()):
        made.eval()  # as a caller who looks at pictures between epochs may do
    assert modes == [True] * 3 * PER_EPOCH


def test_a_record_holds_numbers_and_pins_no_weights():
    made = model()
    optimizers, make = [], torch.optim.AdamW

    class Watched(make):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            optimizers.append(weakref.ref(self))

    torch.optim.AdamW = Watched
    try:
        history = list(train(made, DATA, recipe(), seeded()))
    finally:
        torch.optim.AdamW = make
    assert [f.name for f in dataclasses.fields(Epoch)] == [
        "number", "train_loss", "val_loss", "val_accuracy", "seconds",
    ]  # fmt: skip
    assert all(type(value) in (int, float) for e in history for value in vars(e).values())
    parameter = weakref.ref(made.head.weight)
    del made
    gc.collect()
    assert parameter() is None
    assert optimizers[0]() is None


class Reads(TorchDispatchMode):
    """Counts how often a number is read from the device: on a GPU each read is a stop."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        self.count += "_local_scalar_dense" in str(function) or "is_nonzero" in str(function)
        return function(*arguments, **(settings or {}))


def test_no_step_reads_from_the_device():
    counts = []
    for batch_size in (8, 2):  # 5 or 20 steps
        with Reads() as reads:
            list(train(model(), DATA, recipe(epochs=1, batch_size=batch_size), seeded()))
        counts.append(reads.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_in_other_precisions_are_trained_and_evaluated(dtype):
    made = model().to(dtype)
    *_, last = train(made, ENOUGH, recipe(epochs=5, augment=0.0), seeded())
    assert made.head.weight.dtype == dtype
    assert last.val_accuracy == 1.0
    assert evaluate(made, DATA.val).accuracy == 1.0


# ---- a loss that is not finite


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_loss_that_is_not_finite_stops_training(where, monkeypatch):
    made, epochs = model(), recipe(epochs=5)
    history = train(made, DATA, epochs, seeded())
    next(history)
    if where == "training":
        nn.init.constant_(made.head.bias, math.nan)
    else:
        monkeypatch.setattr(training, "evaluate", lambda *_: training.Metrics(math.inf, 0.1))
    with pytest.raises(ValueError, match=r"the loss became (nan|inf) in epoch 2: start again"):
        next(history)


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


def test_evaluation_that_fails_leaves_the_model_in_its_mode():
    made = model().train()
    wide = Split(torch.zeros(2, 1, 8, 12, dtype=torch.uint8), torch.zeros(2).long(),
                 torch.zeros(1), torch.ones(1))  # fmt: skip
    with pytest.raises(ValueError, match="expected images"):
        evaluate(made, wide)
    assert made.training


def test_predictions_come_in_the_order_of_the_images():
    made = model().eval()
    nn.init.normal_(made.head.weight)
    images = DATA.val.normalise(DATA.val.images.float() / 255)
    got = predictions(made, DATA.val, batch_size=6)
    assert_close(got, made(images).detach())
    assert not got.requires_grad


def test_large_images_are_read_a_few_at_a_time():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.sizes = nn.Parameter(torch.zeros(())), []

        def forward(self, images):
            self.sizes.append(len(images))
            return torch.zeros(len(images), K)

    for side, sizes in ((28, [5]), (1024, [4, 1]), (2049, [1] * 5)):
        made, images = Counting(), torch.zeros((), dtype=torch.uint8).expand(5, 1, side, side)
        predictions(made, Split(images, torch.zeros(5).long(), torch.zeros(1), torch.ones(1)))
        assert made.sizes == sizes


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
        (dict(augment=math.inf), "augment must be finite, got inf"),
        (dict(gradient_clip=0.0), "gradient_clip must be above 0, got 0.0"),
        (dict(warmup=1.0), r"warmup must lie in \[0, 1\), got 1.0"),
        (dict(warmup=-0.1), r"warmup must lie in \[0, 1\), got -0.1"),
        (dict(weight_decay=-0.1), "weight_decay must be at least 0, got -0.1"),
        (dict(augment=-1.0), "augment must be at least 0, got -1.0"),
        (dict(learning_rate=math.inf), "learning_rate must be finite, got inf"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**wrong)


# ---- devices


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_is_the_default(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == torch.device(device)
