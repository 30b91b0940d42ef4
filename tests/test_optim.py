"""Muon, layer-wise learning rates and the average of the weights do what they promise."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from vit_tutorial.lab.optim import (
    Muon,
    layer_groups,
    make_optimizer,
    muon_groups,
    orthogonal,
    update_average,
)
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.train import parameter_groups


def model(layers=1, seed=0):
    torch.manual_seed(seed)
    shape = dict(layers=layers, hidden_size=16, mlp_size=16, heads=2)
    return VisionTransformer(ViTConfig(8, 4, 1, 4, **shape))


def named(of, groups):
    """Every parameter of the groups by its name, and its group; all of the model's, none twice."""
    names = {id(parameter): name for name, parameter in of.named_parameters()}
    found = [(names[id(p)], group) for group in groups for p in group["params"]]
    assert sorted(name for name, _ in found) == sorted(names.values())
    return dict(found)


# ---- Muon


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


def muon_of(made):
    groups = muon_groups(made, parameter_groups(made, 0.05), 2.0)
    return Muon(groups, lr=0.01, betas=(0.9, 0.95), fused=True)


def test_a_step_with_a_closure_is_the_step_with_its_gradients():
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    pair, calls = (model(), model()), []
    optimizers = [muon_of(made) for made in pair]

    def loss_of(i):
        calls.append(i)
        optimizers[i].zero_grad()
        loss = nn.functional.cross_entropy(pair[i](images), labels)
        loss.backward()
        return loss

    for _ in range(3):
        expected = loss_of(0)
        assert optimizers[0].step() is None
        assert torch.equal(optimizers[1].step(lambda: loss_of(1)), expected)
    assert calls == [0, 1] * 3  # once a step
    for one, other in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_leaves_adamw_no_gradient_of_its_matrices_and_skips_those_without_one():
    made = model()
    optimizer = muon_of(made)
    muons = [p for group in optimizer.param_groups if "parts" in group for p in group["params"]]
    before = [p.detach().clone() for p in made.parameters()]
    optimizer.step()  # no gradients at all
    assert all(map(torch.equal, before, made.parameters()))
    for parameter in made.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    kept = {id(p) for p in made.parameters() if p.grad is not None}
    assert kept == {id(p) for p in made.parameters()} - {id(p) for p in muons}
    assert {len(optimizer.state[p]) for p in muons} == {2}  # step and momentum, not AdamW's moments


class Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor: on a GPU each read waits for it."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_and_its_average_read_no_number_from_the_device(optimizer):
    made, average = model(), model(seed=1)
    stepper = make_optimizer(made, Recipe(optimizer=optimizer, layer_decay=0.5))
    for number in (1, 2):
        for parameter in made.parameters():
            parameter.grad = torch.randn_like(parameter)
        with Reads() as reads:
            stepper.step()
            update_average(average, made, 0.9, number)
        assert reads.count == 0
    with Reads() as reads:
        torch.ones(1).item()
    assert reads.count == 1


# ---- which parameters get what


def test_muon_gets_the_matrices_inside_the_blocks_at_its_own_rate_and_adamw_the_rest():
    made = model()
    optimizer = make_optimizer(made, Recipe(optimizer="muon", learning_rate=0.01, muon_rate=0.05))
    assert isinstance(optimizer, Muon)
    for name, group in named(made, optimizer.param_groups).items():
        inside = name.startswith("encoder.blocks") and made.get_parameter(name).ndim == 2
        parts = 3 if "qkv.weight" in name else 1 if inside else None
        assert group.get("parts") == parts, name
        assert group.get("scale", 1.0) == pytest.approx(5.0 if inside else 1.0)


def test_without_muon_the_optimizer_is_adamw_with_the_lessons_groups():
    made = model()
    optimizer = make_optimizer(made, Recipe(weight_decay=0.3))
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["fused"]
    for group, lessons in zip(optimizer.param_groups, parameter_groups(made, 0.3), strict=True):
        assert list(map(id, group["params"])) == list(map(id, lessons["params"]))
        assert group["weight_decay"] == lessons["weight_decay"]


def test_layer_decay_gives_each_block_a_share_of_the_rate_of_the_one_above():
    made = model(layers=3)
    for name, group in named(made, layer_groups(made, parameter_groups(made, 0.1), 0.5)).items():
        block = int(name.split(".")[2]) if name.startswith("encoder.blocks") else None
        depth = 4 if name.startswith("embedding") else 0 if block is None else 3 - block
        assert group["scale"] == 0.5**depth, name


def test_layer_decay_leaves_weight_decay_as_it_is_and_a_decay_of_1_changes_nothing():
    made = model(layers=3)
    groups = parameter_groups(made, 0.1)
    assert layer_groups(made, groups, 1.0) is groups
    before = named(made, groups)
    for name, group in named(made, layer_groups(made, groups, 0.5)).items():
        assert group["weight_decay"] == before[name]["weight_decay"]


def test_layer_decay_and_muons_rate_are_multiplied():
    made = model(layers=2)
    recipe = Recipe(optimizer="muon", learning_rate=0.01, muon_rate=0.05, layer_decay=0.5)
    found = named(made, make_optimizer(made, recipe).param_groups)
    assert found["encoder.blocks.0.mlp.0.weight"]["scale"] == pytest.approx(5 * 0.5**2)
    assert found["encoder.blocks.1.attention.qkv.weight"]["scale"] == pytest.approx(5 * 0.5)
    assert found["encoder.blocks.1.attention.qkv.bias"]["scale"] == 0.5
    assert found["head.weight"]["scale"] == 1.0


# ---- the average of the weights


def test_the_average_is_a_running_mean_with_a_short_memory_at_first():
    made, average = model(), model(seed=1)
    mean = [p.detach().clone() for p in average.parameters()]
    for step in range(1, 30):
        for parameter in made.parameters():
            nn.init.normal_(parameter)
        update_average(average, made, 0.5, step)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = [decay * m + (1 - decay) * p for m, p in zip(mean, made.parameters(), strict=True)]
        for found, expected in zip(average.parameters(), mean, strict=True):
            assert_close(found, expected)
    assert decay == 0.5


def test_the_first_average_keeps_2_of_11_parts_of_what_was_there():
    made, average = model(), model()
    nn.init.ones_(made.head.bias)
    nn.init.constant_(average.head.bias, 12.0)
    update_average(average, made, 0.999, 1)
    assert_close(average.head.bias.detach(), torch.full((4,), 3.0))
    assert torch.equal(made.head.bias, torch.ones(4))
