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

from vit_tutorial import checkpoint, distributed
from vit_tutorial import train as training
from vit_tutorial.data import Data, Split
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.muon import Muon, orthogonal
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
    loss, accuracy = train_step(made, optimizer, (images, labels), 1e-3, recipe())
    assert_close(loss, expected.detach())
    assert accuracy.item() == hits / 8
    assert not torch.equal(made(images), logits)


def test_a_step_forgets_the_gradients_of_the_step_before():
    once, twice = model(), model()
    for made, steps in ((once, 1), (twice, 2)):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
        for _ in range(steps):
            train_step(made, optimizer, batch(), 0.0, recipe(gradient_clip=1e9))
    assert_close(once.head.weight.grad, twice.head.weight.grad)


@pytest.mark.parametrize("clip", [0.01, 1e9])
def test_all_gradients_together_are_cut_to_a_norm(clip):
    made = model()
    F.cross_entropy(made(batch()[0]), batch()[1]).backward()
    before = [p.grad.clone() for p in made.parameters()]
    norm = torch.cat([g.flatten() for g in before]).norm()
    assert norm > 0.01
    train_step(
        made, torch.optim.SGD(made.parameters(), lr=0.0), batch(), 0.0, recipe(gradient_clip=clip)
    )
    factor = min(1.0, clip / norm.item())
    for parameter, gradient in zip(made.parameters(), before, strict=True):
        assert_close(parameter.grad, factor * gradient, atol=1e-7, rtol=1e-4)


def test_one_batch_can_be_learned_by_heart():
    made, labels = model(), torch.randint(K, (8,))  # labels without rhyme or reason
    optimizer = torch.optim.AdamW(made.parameters())
    images = torch.randn(8, 1, 8, 8)
    losses = [train_step(made, optimizer, (images, labels), 1e-2, recipe())[0] for _ in range(100)]
    assert losses[0].item() == pytest.approx(math.log(K))
    assert losses[-1] < 0.01


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_parts_of_a_batch_give_the_gradient_loss_and_accuracy_of_the_whole(accumulate):
    whole, parted = model(), model()
    for made in (whole, parted):
        nn.init.normal_(made.head.weight, generator=seeded())
    outcomes = [
        train_step(made, torch.optim.SGD(made.parameters()), batch(), 0.1, recipe(accumulate=parts))
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
    optimizer = torch.optim.SGD(made.parameters())
    for known, smoothing in ((labels, 0.2), (soft, 0.0)):
        config = recipe(label_smoothing=smoothing)
        loss, _ = train_step(made, optimizer, (images, known), 0.0, config)
        assert_close(loss, expected.detach())


def test_bf16_rounds_the_products_and_keeps_weights_and_loss_in_float32():
    plain, rounded = model(), model()
    losses = []
    for made, precision in ((plain, "float32"), (rounded, "bf16")):
        nn.init.normal_(made.head.weight, generator=seeded())
        optimizer = torch.optim.SGD(made.parameters())
        losses.append(train_step(made, optimizer, batch(), 0.1, recipe(precision=precision))[0])
    assert losses[0] != losses[1]
    assert_close(losses[0], losses[1], atol=0, rtol=0.02)
    assert losses[1].dtype == rounded.head.weight.dtype == torch.float32


# ---- Muon and the mean of the weights


def test_orthogonal_is_near_the_matrix_with_the_same_directions_and_no_lengths():
    for rows, columns in ((5, 9), (9, 5), (6, 6)):
        left, right = torch.randn(2, rows, rows), torch.randn(2, columns, columns)
        U, V = torch.linalg.qr(left)[0], torch.linalg.qr(right)[0]
        k = min(rows, columns)
        lengths = torch.linspace(0.2, 1, k).expand(2, k)
        found = orthogonal((U[:, :, :k] * lengths[:, None]) @ V[:, :, :k].mT)
        coordinates = U[:, :, :k].mT @ found @ V[:, :, :k]
        near = coordinates.diagonal(dim1=1, dim2=2)
        assert 0.6 < near.min() < near.max() < 1.3
        assert_close(coordinates - torch.diag_embed(near), torch.zeros(2, k, k), atol=1e-4, rtol=0)


def test_muon_takes_the_steps_of_pytorchs_but_for_its_rounding():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    start = [torch.randn(12, 6), torch.randn(6, 12), torch.randn(12, 6)]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    groups = [{"params": ours, "parts": 1, "weight_decay": 0.1}]
    pair = Muon(groups, lr=0.02), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        moved = (other - before).norm()
        assert (one - other).norm() < 0.02 * moved


def test_muon_moves_q_k_and_v_each_by_itself_and_the_rest_as_adamw():
    packed, whole = nn.Parameter(torch.randn(12, 4)), torch.randn(12, 4)
    three = [nn.Parameter(part.clone()) for part in packed.detach().chunk(3)]
    bias = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    packed.grad = whole
    for parameter, part in zip(three, whole.chunk(3), strict=True):
        parameter.grad = part.clone()
    for parameter in bias:
        parameter.grad = torch.tensor([1.0, -2.0, 3.0])
    settings = dict(lr=0.1, weight_decay=0.3)
    Muon([{"params": [packed], "parts": 3}, {"params": bias[:1]}], **settings).step()
    Muon([{"params": three, "parts": 1}], **settings).step()
    torch.optim.AdamW(bias[1:], **settings).step()
    assert_close(packed.detach(), torch.cat([part.detach() for part in three]))
    assert torch.equal(bias[0], bias[1])


def test_muon_gets_the_matrices_inside_the_blocks_at_its_own_rate_and_adamw_the_rest():
    made = model()
    config = recipe(optimizer="muon", learning_rate=0.01, muon_rate=0.05)
    names = {id(p): name for name, p in made.named_parameters()}
    optimizer = training.make_optimizer(made, config)
    found = sorted(names[id(p)] for group in optimizer.param_groups for p in group["params"])
    assert found == sorted(names.values())
    for group in optimizer.param_groups:
        for name in (names[id(p)] for p in group["params"]):
            inside = name.startswith("encoder.blocks") and made.get_parameter(name).ndim == 2
            assert group.get("parts") == (3 if "qkv.weight" in name else 1 if inside else None), (
                name
            )
            assert group.get("scale", 1.0) == pytest.approx(5.0 if inside else 1.0)


def test_muon_learns():
    *_, last = train(model(), DATA, recipe(epochs=12, augment=0.0, optimizer="muon"), seeded())
    assert last.val_accuracy == 1.0


def test_the_average_is_a_running_mean_with_a_short_memory_at_first():
    made, path = model(), []
    config = recipe(average=0.5, epochs=2)
    mean = weights(made)

    def on_step(step):
        path.append(weights(made).clone())

    for epoch in train(made, DATA, config, seeded(), on_step=on_step):
        for step in range(len(path) - PER_EPOCH, len(path)):
            decay = min(0.5, (2 + step) / (11 + step))  # steps count from 1
            mean = decay * mean + (1 - decay) * path[step]
        assert_close(weights(made), mean)  # what a record is about
        assert evaluate(made, DATA.val) == (epoch.val_loss, epoch.val_accuracy)
        raw = torch.cat([value.flatten() for value in epoch.state.part("model").values()])
        assert torch.equal(raw, path[-1])
    assert_close(weights(made), mean)  # at the end too


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


class Stop(Exception):
    """Somebody pressed Ctrl-C."""


RICH = dict(optimizer="muon", average=0.8, label_smoothing=0.1, accumulate=2)


@pytest.mark.parametrize("changes", [{}, RICH, dict(cutmix=1.0, augmentation="photo")])
@pytest.mark.parametrize("stop", [1, 4, 5, 11, 15])
def test_training_resumed_within_an_epoch_equals_training_without_a_stop(stop, changes):
    states = []

    def on_step(step):
        if step.number == stop:
            states.append(step.state())
            raise Stop

    whole, halved, config = model(0.1), model(0.1), recipe(**changes)
    torch.manual_seed(7)
    uninterrupted = list(train(whole, DATA, config, seeded()))
    torch.manual_seed(7)
    with pytest.raises(Stop):
        list(train(halved, DATA, config, seeded(), on_step=on_step))
    (state,) = states
    assert (state.epoch, state.step) == divmod(stop, PER_EPOCH) or state.step == PER_EPOCH
    other = model(0.1, seed=9)
    rest = list(train(other, DATA, config, seeded(99), state))
    assert figures(rest) == figures(uninterrupted[state.epoch :])
    assert torch.equal(weights(other), weights(whole))


def test_another_process_drops_the_same_units_after_a_stop(monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    states, whole, other = [], model(0.5), model(0.5, seed=9)

    def on_step(step):
        if step.number == 7:
            states.append(step.state())

    uninterrupted = list(train(whole, DATA, recipe(), seeded(), on_step=on_step))
    (state,) = states
    state.tensors["epoch.dropout"] = seeded(5).get_state()  # a state is process 0's
    rest = list(train(other, DATA, recipe(), seeded(99), state))
    assert figures(rest) == figures(uninterrupted[1:])
    assert torch.equal(weights(other), weights(whole))


def test_a_state_survives_a_file(tmp_path):
    *_, last = islice(train(model(0.1), DATA, recipe(), seeded()), 1)
    checkpoint.save_state(tmp_path / "state", last.state, {"seed": 3})
    read, about = checkpoint.load_state(tmp_path / "state")
    assert about == {"seed": 3}
    assert (read.epoch, read.step) == (1, 0)
    runs = [model(seed=1), model(seed=2)]
    for made, state in zip(runs, (last.state, read), strict=True):
        list(train(made, DATA, recipe(), seeded(), state=state))
    assert torch.equal(weights(runs[0]), weights(runs[1]))


def test_a_state_stays_as_it_was_while_training_goes_on():
    made = model()
    epochs = train(made, DATA, recipe(), seeded())
    first = next(epochs)
    then = weights(made).clone()
    momenta = {n: t.clone() for n, t in first.state.part("optimizer").items()}
    list(epochs)
    kept = torch.cat([value.flatten() for value in first.state.part("model").values()])
    assert torch.equal(kept, then)
    assert not torch.equal(kept, weights(made))
    assert any(name.endswith("exp_avg") for name in momenta)
    for name, tensor in first.state.part("optimizer").items():
        assert torch.equal(momenta[name], tensor)


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
    epochs = train(made, DATA, config, drawn, on_step=spoil(made, broken_after))
    good = next(epochs)
    then = weights(made).clone()
    with pytest.raises(ValueError, match=f"the loss became nan at step {named} .* epoch 1 left it"):
        next(epochs)
    assert torch.equal(weights(made), then)
    assert torch.equal(drawn.get_state(), good.state.tensors["epoch.generator"])
    assert torch.equal(torch.get_rng_state(), good.state.tensors["epoch.dropout"])


def test_a_loss_that_is_not_finite_after_a_resumption_brings_back_where_that_began():
    states, made = [], model()

    def on_step(step):
        states.append(step.state())

    list(train(model(), DATA, recipe(), seeded(), on_step=on_step))
    state = states[PER_EPOCH + 1]
    message = f"nan at step {PER_EPOCH + 4} .* epoch 1 and 2 steps left it"
    with pytest.raises(ValueError, match=message):
        list(train(made, DATA, recipe(), seeded(), state, spoil(made, PER_EPOCH + 3)))
    assert all(torch.equal(t, state.part("model")[k]) for k, t in made.state_dict().items())


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
        (dict(gradient_clip=0.0), "gradient_clip must be above 0, got 0.0"),
        (dict(warmup=1.0), r"warmup must lie in \[0, 1\), got 1.0"),
        (dict(warmup=-0.1), r"warmup must lie in \[0, 1\), got -0.1"),
        (dict(weight_decay=-0.1), "weight_decay must not be negative, got -0.1"),
        (dict(augment=-1.0), "augment must not be negative, got -1.0"),
        (dict(average=1.0), r"average must lie in \[0, 1\), got 1.0"),
        (dict(label_smoothing=-0.1), r"label_smoothing must lie in \[0, 1\), got -0.1"),
        (dict(muon_rate=0.0), "muon_rate must be above 0, got 0.0"),
        (dict(accumulate=3), "3 parts do not divide batch_size 128"),
        (dict(cutmix=-1.0), "cutmix must not be negative, got -1.0"),
        (dict(optimizer="adam"), "unknown optimizer 'adam'; did you mean 'adamw'"),
        (dict(precision="fp8"), "unknown precision 'fp8'"),
        (dict(augmentation="photos"), "unknown augmentation 'photos'; did you mean 'photo'"),
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


@pytest.mark.parametrize(
    ("name", "C", "size", "limit"),
    [(name, 1, 28, 250_000) for name in PRESETS if not name.startswith("cifar10")]
    + [("cifar10", 3, 32, 4_000_000), ("cifar10-small", 3, 32, 1_000_000)],
)
def test_a_preset_fits_its_data_and_stays_small(name, C, size, limit):
    images = torch.zeros(10, C, size, size, dtype=torch.uint8)
    ten = Split(images, torch.arange(10), torch.zeros(C), torch.ones(C))
    config = model_config(Data(name, ten, ten, ten, list("0123456789")), PRESETS[name].model)
    with torch.device("meta"):
        made = VisionTransformer(config)
    assert sum(parameter.numel() for parameter in made.parameters()) <= limit


@pytest.mark.parametrize(
    ("cuda", "mps", "device"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_fastest_device_is_the_default(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == torch.device(device)
