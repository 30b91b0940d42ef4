"""The laboratory's loop gives the lesson's history, and can be stopped and resumed exactly."""

import dataclasses
import math
from itertools import islice

import pytest
import torch
from image_files import DATA, ENOUGH, PER_EPOCH, K, batch, figures, model, seeded, weights
from test_train import Reads
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from vit_tutorial import train as lesson
from vit_tutorial.data import Data, Split
from vit_tutorial.lab import distributed, loop
from vit_tutorial.lab.loop import Step, Training, train, train_step
from vit_tutorial.lab.recipes import PRESETS, Recipe, model_config
from vit_tutorial.lab.resume import load_state, save_state
from vit_tutorial.model import VisionTransformer
from vit_tutorial.train import TrainConfig, evaluate


def recipe(**changes):
    return Recipe(**{**dict(epochs=3, batch_size=8, learning_rate=1e-2), **changes})


# ---- the lesson's history


@pytest.mark.parametrize(
    "changes", [{}, dict(augment=0.0, gradient_clip=0.1), dict(warmup=0.0, weight_decay=0.5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_the_lessons_settings_it_is_the_lessons_history_to_the_bit(changes, dtype):
    ours, theirs = model(0.1).to(dtype), model(0.1).to(dtype)
    config = recipe(**changes)
    plain = TrainConfig(
        **{f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)}
    )
    torch.manual_seed(7)
    told = figures(lesson.train(theirs, DATA, plain, seeded()))
    torch.manual_seed(7)
    assert figures(train(ours, DATA, config, seeded())) == told
    assert torch.equal(weights(ours), weights(theirs))


def test_no_step_reads_from_the_device():
    counts = []
    for batch_size in (8, 4):  # 5 or 10 steps
        with Reads() as reads:
            changes = dict(optimizer="muon", average=0.9, cutmix=1.0, batch_size=batch_size)
            changes |= dict(shortcut=True, drop_patches=0.5)
            training = Training(model(), DATA, recipe(epochs=1, **changes), seeded())
            list(training.epochs(lambda step: None))
        counts.append(reads.count - 40 // batch_size)  # CutMix draws from NumPy by a seed
    assert counts[0] == counts[1]


# ---- a step


def test_a_step_reports_the_loss_and_accuracy_before_its_update():
    made, (images, labels) = model(), batch()
    nn.init.normal_(made.head.weight)
    logits = made(images)
    expected = -logits.log_softmax(dim=1)[torch.arange(8), labels].mean()
    hits = sum(row.argmax().item() == label for row, label in zip(logits, labels, strict=True))
    optimizer = torch.optim.AdamW(made.parameters())
    loss, accuracy = train_step(made, optimizer, (images, labels), recipe())
    assert_close(loss, expected.detach())
    assert accuracy.item() == hits / 8
    assert not torch.equal(made(images), logits)


def test_a_step_forgets_the_gradients_of_the_step_before():
    once, twice = model(), model()
    for made, steps in ((once, 1), (twice, 2)):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
        for _ in range(steps):
            train_step(made, optimizer, batch(), recipe(gradient_clip=1e9))
    assert_close(once.head.weight.grad, twice.head.weight.grad)


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_all_gradients_together_are_cut_to_a_norm(clip):
    made = model()
    F.cross_entropy(made(batch()[0]), batch()[1]).backward()
    before = [p.grad.clone() for p in made.parameters()]
    norm = torch.cat([g.flatten() for g in before]).norm()
    assert norm > 0.01
    still = torch.optim.SGD(made.parameters(), lr=0.0)
    train_step(made, still, batch(), recipe(gradient_clip=clip))
    factor = min(1.0, clip / norm.item())
    for parameter, gradient in zip(made.parameters(), before, strict=True):
        assert_close(parameter.grad, factor * gradient, atol=1e-7, rtol=1e-4)


def test_one_batch_can_be_learned_by_heart():
    made, labels = model(), torch.randint(K, (8,))  # labels without rhyme or reason
    optimizer = torch.optim.AdamW(made.parameters(), 1e-2)
    images = torch.randn(8, 1, 8, 8)
    losses = [train_step(made, optimizer, (images, labels), recipe())[0] for _ in range(100)]
    assert losses[0].item() == pytest.approx(math.log(K))
    assert losses[-1] < 0.01


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_of_a_batch_give_the_gradient_loss_and_accuracy_of_the_whole(accumulate):
    whole, parted = model(), model()
    for made in (whole, parted):
        nn.init.normal_(made.head.weight, generator=seeded())
    outcomes = [
        train_step(made, torch.optim.SGD(made.parameters(), 0.1), batch(), recipe(accumulate=parts))
        for made, parts in ((whole, 1), (parted, accumulate))
    ]
    assert_close(outcomes[0], outcomes[1])
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        assert_close(one.grad, other.grad)
        assert_close(one, other)


def test_label_smoothing_is_the_loss_against_softened_labels():
    made, (images, labels) = model(), batch()
    nn.init.normal_(made.head.weight)
    soft = 0.8 * F.one_hot(labels, K) + 0.2 / K
    expected = -(soft * made(images).log_softmax(dim=1)).sum(dim=1).mean()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
    for known, smoothing in ((labels, 0.2), (soft, 0.0)):
        config = recipe(label_smoothing=smoothing)
        loss, _ = train_step(made, optimizer, (images, known), config)
        assert_close(loss, expected.detach())


def test_bf16_rounds_the_products_and_keeps_weights_and_loss_in_float32():
    plain, rounded = model(), model()
    losses = []
    for made, precision in ((plain, "float32"), (rounded, "bf16")):
        nn.init.normal_(made.head.weight, generator=seeded())
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
        losses.append(train_step(made, optimizer, batch(), recipe(precision=precision))[0])
    assert losses[0] != losses[1]
    assert_close(losses[0], losses[1], atol=0, rtol=0.02)
    assert losses[1].dtype == rounded.head.weight.dtype == torch.float32


def test_muon_learns():
    *_, last = train(model(), ENOUGH, recipe(epochs=5, augment=0.0, optimizer="muon"), seeded())
    assert last.val_accuracy == 1.0


def test_cutmix_knows_the_models_classes_not_the_datas():
    made = model(classes=K + 3)
    *_, last = train(made, DATA, recipe(epochs=1, cutmix=1.0), seeded())
    assert math.isfinite(last.train_loss)


def test_the_average_is_a_running_mean_with_a_short_memory_at_first():
    made, path = model(), []
    mean = weights(made)
    training = Training(made, DATA, recipe(average=0.5, epochs=2), seeded())
    for epoch in training.epochs(lambda step: path.append(weights(made).clone())):
        for step in range(len(path) - PER_EPOCH, len(path)):
            decay = min(0.5, (2 + step) / (11 + step))  # steps count from 1
            mean = decay * mean + (1 - decay) * path[step]
        assert_close(weights(made), mean)  # what a record is about
        assert evaluate(made, DATA.val) == (epoch.val_loss, epoch.val_accuracy)
        raw = torch.cat([v.flatten() for v in training.state().part("model").values()])
        assert torch.equal(raw, path[-1])
    assert_close(weights(made), mean)  # at the end too


# ---- states


@pytest.mark.parametrize("stop", [1, 2])
def test_training_resumed_from_a_state_equals_training_without_a_stop(stop):
    whole, halved = model(0.1), model(0.1)
    torch.manual_seed(7)  # of dropout; the resumed run must not depend on it
    uninterrupted = list(train(whole, DATA, recipe(), seeded()))
    torch.manual_seed(7)
    training = Training(halved, DATA, recipe(), seeded())
    list(islice(training.epochs(), stop))
    other = model(0.1, seed=9)  # as after a new start: nothing but the state is left
    rest = list(Training(other, DATA, recipe(), seeded(99), training.state()).epochs())
    assert figures(rest) == figures(uninterrupted[stop:])
    assert torch.equal(weights(other), weights(whole))


class Stop(Exception):
    """Somebody pressed Ctrl-C."""


RICH = dict(optimizer="muon", average=0.8, label_smoothing=0.1, accumulate=2, shortcut=True,
            drop_patches=0.5)  # fmt: skip


def stopped(training, number):
    """Train until after a step."""

    def on_step(step):
        if step.number == number:
            raise Stop

    with pytest.raises(Stop):
        list(training.epochs(on_step))


@pytest.mark.parametrize("changes", [{}, RICH, dict(cutmix=1.0, augmentation="photo")])
@pytest.mark.parametrize("stop", [1, 4, 5, 11, 15])
def test_training_resumed_within_an_epoch_equals_training_without_a_stop(stop, changes):
    whole, halved, config = model(0.1), model(0.1), recipe(**changes)
    torch.manual_seed(7)
    uninterrupted = list(train(whole, DATA, config, seeded()))
    torch.manual_seed(7)
    training = Training(halved, DATA, config, seeded())
    stopped(training, stop)
    state = training.state()
    assert (state.epoch, state.step) == divmod(stop, PER_EPOCH) or state.step == PER_EPOCH
    other = model(0.1, seed=9)
    rest = list(Training(other, DATA, config, seeded(99), state).epochs())
    assert figures(rest) == figures(uninterrupted[state.epoch :])
    assert torch.equal(weights(other), weights(whole))


@pytest.mark.parametrize("changes", [{}, RICH])
@pytest.mark.parametrize("stop", [2, 5, 8])
def test_the_same_training_goes_on_where_somebody_stopped_it(stop, changes):
    whole, halved, config = model(0.1), model(0.1), recipe(**changes)
    torch.manual_seed(7)
    list(train(whole, DATA, config, seeded()))
    torch.manual_seed(7)
    training = Training(halved, DATA, config, seeded())
    stopped(training, stop)
    list(training.epochs())
    assert torch.equal(weights(halved), weights(whole))


def test_a_resumed_training_gives_its_state_and_its_seconds(monkeypatch):
    training = Training(model(), DATA, recipe(average=0.9), seeded())
    stopped(training, 7)
    state = training.state()
    again = Training(model(seed=9), DATA, recipe(average=0.9), seeded(1), state).state()
    assert (again.epoch, again.step, again.seconds) == (1, 2, state.seconds)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in state.tensors.items())
    clock = iter(range(10**6))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    told = Training(model(), DATA, recipe(epochs=1), seeded())
    stopped(told, 3)  # one tick at the start, then one a step
    assert told.state().seconds == 3
    (epoch,) = told.epochs()
    assert epoch.seconds == 6  # two more steps, and the record


def test_a_finished_state_with_an_average_leaves_that_in_the_model():
    whole, other = model(), model(seed=9)
    training = Training(whole, DATA, recipe(average=0.9), seeded())
    list(training.epochs())
    assert (
        list(Training(other, DATA, recipe(average=0.9), seeded(), training.state()).epochs()) == []
    )
    assert torch.equal(weights(other), weights(whole))


def test_an_error_in_the_first_step_of_an_epoch_is_forgotten(monkeypatch):
    whole, halved, step, calls = model(0.1), model(0.1), loop.train_step, []

    def failing(network, *rest):
        calls.append(1)
        if len(calls) == 1 + PER_EPOCH:
            network(torch.zeros(8, 1, 8, 8))  # dropout draws
            raise RuntimeError("out of memory")
        return step(network, *rest)

    torch.manual_seed(7)
    uninterrupted = list(train(whole, DATA, recipe(), seeded()))
    torch.manual_seed(7)
    monkeypatch.setattr(loop, "train_step", failing)
    training = Training(halved, DATA, recipe(), seeded())
    epochs = training.epochs()
    history = [next(epochs)]
    with pytest.raises(RuntimeError, match="out of memory"):
        next(epochs)
    history += training.epochs()
    assert figures(history) == figures(uninterrupted)
    assert torch.equal(weights(halved), weights(whole))


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
def test_whatever_on_step_raises_leaves_the_weights_as_they_are(error):
    made, seen = model(), []

    def on_step(step):
        if step.number == 7:
            seen.append(weights(made).clone())
            raise error("enough")

    with pytest.raises(error, match="enough"):
        list(Training(made, DATA, recipe(), seeded()).epochs(on_step))
    assert torch.equal(weights(made), seen[0])


def test_another_process_drops_the_same_units_after_a_stop(monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "mean", lambda x: x)
    states, whole, other = [], model(0.5), model(0.5, seed=9)
    training = Training(whole, DATA, recipe(), seeded())
    on_step = lambda step: states.append(training.state()) if step.number == 7 else None  # noqa: E731
    uninterrupted = list(training.epochs(on_step))
    (state,) = states
    state.tensors["epoch.dropout"] = seeded(5).get_state()  # a state is process 0's
    rest = list(Training(other, DATA, recipe(), seeded(99), state).epochs())
    assert figures(rest) == figures(uninterrupted[1:])
    assert torch.equal(weights(other), weights(whole))


def after_one_epoch(dropout=0.0, **changes):
    training = Training(model(dropout), DATA, recipe(**changes), seeded())
    next(training.epochs())
    return training.state()


def test_a_state_survives_a_file(tmp_path):
    state = after_one_epoch(0.1)
    save_state(tmp_path / "state", state, {"seed": 3})
    read, about = load_state(tmp_path / "state")
    assert about == {"seed": 3}
    assert (read.epoch, read.step, read.settings) == (1, 0, state.settings)
    runs = [model(seed=1), model(seed=2)]
    for made, kept in zip(runs, (state, read), strict=True):
        list(Training(made, DATA, recipe(), seeded(), kept).epochs())
    assert torch.equal(weights(runs[0]), weights(runs[1]))


def test_a_state_stays_as_it_was_while_training_goes_on():
    made = model()
    training = Training(made, DATA, recipe(), seeded())
    epochs = training.epochs()
    next(epochs)
    first, then = training.state(), weights(made).clone()
    momenta = {n: t.clone() for n, t in first.part("optimizer").items()}
    list(epochs)
    kept = torch.cat([value.flatten() for value in first.part("model").values()])
    assert torch.equal(kept, then)
    assert not torch.equal(kept, weights(made))
    assert any(name.endswith("exp_avg") for name in momenta)
    for name, tensor in first.part("optimizer").items():
        assert torch.equal(momenta[name], tensor)


def test_training_can_be_resumed_from_one_state_again_and_again():
    state = after_one_epoch()
    runs = [list(Training(model(), DATA, recipe(), seeded(), state).epochs()) for _ in range(2)]
    assert figures(runs[0]) == figures(runs[1])


def test_resuming_a_finished_run_trains_no_further():
    training = Training(model(), DATA, recipe(), seeded())
    list(training.epochs())
    assert list(Training(model(), DATA, recipe(), seeded(), training.state()).epochs()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(batch_size=16), "batch_size: saved 8, asked 16"),
        (dict(batch_size=4), "batch_size: saved 8, asked 4"),
        (dict(optimizer="muon", epochs=4), "epochs: saved 3, asked 4; optimizer: saved adamw"),
        (dict(average=0.9), "average: saved 0.0, asked 0.9"),
        (dict(shortcut=True), "shortcut: saved False, asked True"),
    ],
)
def test_a_state_of_other_settings_is_refused_with_the_difference(changes, said):
    state, made = after_one_epoch(), model(seed=5)
    before = weights(made).clone()
    with pytest.raises(ValueError, match=f"cannot be resumed with other settings: {said}"):
        Training(made, DATA, recipe(**changes), seeded(), state)
    assert torch.equal(weights(made), before)


def test_a_state_from_before_an_option_existed_has_its_default():
    state = after_one_epoch()
    del state.settings["drop_patches"]
    assert list(Training(model(), DATA, recipe(), seeded(), state).epochs())
    with pytest.raises(ValueError, match=r"drop_patches: saved 0.0, asked 0.5"):
        Training(model(), DATA, recipe(shortcut=True, drop_patches=0.5), seeded(), state)


def test_a_state_of_another_number_of_images_or_another_model_is_refused():
    state, few = after_one_epoch(), Split(DATA.train.images[:39], DATA.train.labels[:39],
                                          DATA.train.mean, DATA.train.std)  # fmt: skip
    fewer = Data("fewer", few, DATA.val, DATA.test, DATA.classes)
    with pytest.raises(ValueError, match="training_images: saved 40, asked 39"):
        Training(model(), fewer, recipe(), seeded(), state)
    other = model(mlp_size=8)
    before = weights(other).clone()
    said = r"encoder.blocks.0.mlp.0.weight: saved float32 \(16, 16\), asked float32 \(8, 16\)"
    with pytest.raises(ValueError, match=said):
        Training(other, DATA, recipe(), seeded(), state)
    assert torch.equal(weights(other), before)


def test_a_state_whose_tensors_do_not_fit_changes_nothing():
    made, state = model(seed=5), after_one_epoch()
    before, drawn = weights(made).clone(), seeded()
    for name, wrong, said in [
        ("optimizer.0.exp_avg", torch.zeros(2), r"saved float32 \(2,\), asked float32 \(16, 16\)"),
        ("optimizer.0.exp_avg", torch.full((16, 16), torch.nan), "exp_avg holds NaN"),
        ("optimizer.99.exp_avg", torch.zeros(2), r"saved float32 \(2,\), asked None"),
    ]:
        lies = dataclasses.replace(state, tensors=state.tensors | {name: wrong})
        with pytest.raises(ValueError, match=said):
            Training(made, DATA, recipe(), drawn, lies)
    assert torch.equal(weights(made), before)
    assert torch.equal(drawn.get_state(), seeded().get_state())


def test_the_training_loss_is_the_mean_over_the_epochs_steps():
    steps = []
    for epoch in Training(model(), DATA, recipe(), seeded()).epochs(steps.append):
        mine = steps[-PER_EPOCH:]
        assert epoch.train_loss == pytest.approx(sum(s.loss.item() for s in mine) / PER_EPOCH)
    assert [s.number for s in steps] == list(range(1, 3 * PER_EPOCH + 1))
    assert {s.steps for s in steps} == {3 * PER_EPOCH}
    assert all(0 <= s.accuracy <= 1 for s in steps)


# ---- a loss that is not finite


def spoil(made, at):
    """An `on_step` that breaks the weights after one step."""

    def on_step(step: Step):
        if step.number == at:
            nn.init.constant_(made.head.bias, math.nan)

    return on_step


@pytest.mark.parametrize(
    ("broken_after", "named", "average"),
    [
        (PER_EPOCH + 2, PER_EPOCH + 3, 0.0),
        (PER_EPOCH + 2, PER_EPOCH + 3, 0.9),
        (PER_EPOCH + 1, PER_EPOCH + 2, 0.0),
        (2 * PER_EPOCH, 2 * PER_EPOCH, 0.0),
    ],
    ids=["in mid-epoch", "with an average", "early in an epoch", "by the last step of an epoch"],
)
def test_a_loss_that_is_not_finite_stops_training_and_brings_back_the_last_good_state(
    broken_after, named, average
):
    made, drawn = model(0.1), seeded()
    config = recipe(average=average)
    training = Training(made, DATA, config, drawn)
    epochs = training.epochs(spoil(made, broken_after))
    next(epochs)
    good = training.state()
    then = weights(made).clone()
    with pytest.raises(ValueError, match=f"the loss became nan at step {named} .* epoch 1 left it"):
        next(epochs)
    assert torch.equal(weights(made), then)
    assert torch.equal(drawn.get_state(), good.tensors["epoch.generator"])
    assert torch.equal(torch.get_rng_state(), good.tensors["epoch.dropout"])


def test_a_loss_that_is_not_finite_after_a_resumption_brings_back_where_that_began():
    made, first = model(), Training(model(), DATA, recipe(), seeded())
    stopped(first, PER_EPOCH + 2)
    state = first.state()
    message = f"nan at step {PER_EPOCH + 4} .* epoch 1 and 2 steps left it"
    resumed = Training(made, DATA, recipe(), seeded(), state)
    with pytest.raises(ValueError, match=message):
        list(resumed.epochs(spoil(made, PER_EPOCH + 3)))
    assert all(torch.equal(t, state.part("model")[k]) for k, t in made.state_dict().items())


def test_a_loss_that_is_not_finite_at_once_leaves_the_model_as_it_was_given():
    made = model()
    then = weights(made).clone()
    with pytest.raises(ValueError, match="epoch 0 left it"):
        list(Training(made, DATA, recipe(), seeded()).epochs(spoil(made, 1)))
    assert torch.equal(weights(made), then)


def test_a_rate_far_too_high_is_named():
    wild = recipe(learning_rate=1e38, warmup=0.0, epochs=100, weight_decay=0.0)
    with pytest.raises(ValueError, match=r"became (nan|inf) at step \d+ \(learning rate 1e\+38\)"):
        list(train(model(), DATA, wild, seeded()))


# ---- fewer patches


def test_most_steps_see_half_of_the_patches_with_their_positions_and_the_last_tenth_all():
    made, seen, chosen = model(), [], []
    training = Training(
        made, DATA, recipe(epochs=4, shortcut=True, drop_patches=0.5, augment=0.0), seeded()
    )
    norm = made.encoder.blocks[0].norm1
    norm.register_forward_hook(lambda m, _, z: seen.append(z.shape[1]) if m.training else None)
    list(training.epochs(lambda step: chosen.append(training.inner.kept)))
    assert seen == [3] * 18 + [5] * 2  # the class token and two of four patches, then all
    assert [kept is None for kept in chosen] == [False] * 18 + [True] * 2
    assert all(kept[0] == 0 and len(set(kept.tolist())) == 3 for kept in chosen[:18])
    assert len({tuple(sorted(kept.tolist())) for kept in chosen[:18]}) > 3


def test_at_least_one_patch_is_left():
    training = Training(model(), DATA, recipe(shortcut=True, drop_patches=0.99), seeded())
    assert len(training.tokens_of_step(0.1)) == 2


def test_a_share_that_leaves_out_no_patch_is_refused():
    told = r"drop_patches 0.1 leaves out none of 4 patches: expected 0, or more than 0.12"
    with pytest.raises(ValueError, match=told):
        Training(model(), DATA, recipe(shortcut=True, drop_patches=0.1), seeded())


def test_patches_are_not_left_out_where_the_shortcut_does_not_go():
    told = "drop_patches 0.5 needs the shortcut of a VisionTransformer with a class token: set it"
    for made, changes in ((model(), dict(shortcut=False)), (model(pool="mean"), {})):
        options = dict(shortcut=True, drop_patches=0.5) | changes
        with pytest.raises(ValueError, match=told):
            Training(made, DATA, recipe(**options), seeded())


# ---- recipes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(weight_decay=4e2), "weight_decay times the learning rate must be below 1, got 400"),
        (dict(augment=math.nan), "augment must be a number, got nan"),
        (dict(average=1.0), r"average must lie in \[0, 1\), got 1.0"),
        (dict(label_smoothing=-0.1), r"label_smoothing must lie in \[0, 1\), got -0.1"),
        (dict(muon_rate=0.0), "muon_rate must be above 0, got 0.0"),
        (dict(accumulate=3), "3 parts do not divide batch_size 128"),
        (dict(cutmix=-1.0), "cutmix must be at least 0, got -1.0"),
        (dict(drop_patches=1.0), r"drop_patches must lie in \[0, 1\), got 1.0"),
        (dict(optimizer="adam"), "unknown optimizer 'adam'; did you mean 'adamw'"),
        (dict(precision="fp8"), "unknown precision 'fp8'"),
        (dict(augmentation="photos"), "unknown augmentation 'photos'; did you mean 'photo'"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)


def test_the_data_fix_image_size_channels_and_classes():
    wide = Split(torch.zeros(3, 3, 8, 12, dtype=torch.uint8), torch.arange(3),
                 torch.zeros(3), torch.ones(3))  # fmt: skip
    shape = dict(patch_size=4, layers=1, hidden_size=8, mlp_size=8, heads=2)
    config = model_config(Data("wide", wide, wide, wide, list("abc")), shape)
    assert (config.image_size, config.channels, config.classes) == ((8, 12), 3, 3)
    assert model_config(DATA, shape).image_size == 8


@pytest.mark.parametrize(
    ("name", "C", "size", "limit"),
    [(name, 1, 28, 250_000) for name in PRESETS if not name.startswith(("cifar10", "fashion"))]
    + [("fashion", 1, 28, 400_000)]
    + [("cifar10", 3, 32, 4_000_000), ("cifar10-small", 3, 32, 1_000_000)],
)
def test_a_preset_fits_its_data_and_stays_small(name, C, size, limit):
    images = torch.zeros(10, C, size, size, dtype=torch.uint8)
    ten = Split(images, torch.arange(10), torch.zeros(C), torch.ones(C))
    config = model_config(Data(name, ten, ten, ten, list("0123456789")), PRESETS[name].model)
    with torch.device("meta"):
        made = VisionTransformer(config)
    assert sum(parameter.numel() for parameter in made.parameters()) <= limit
