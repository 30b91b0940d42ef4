"""The shortcut for the class token: the same logits and gradients, with less work."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from vit_tutorial.lab.shortcut import ClassTokenShortcut, shortcut
from vit_tutorial.model import VisionTransformer, ViTConfig

few = st.integers(1, 3)
EXACT = dict(atol=1e-12, rtol=1e-12)


def model(L=2, h=2, **changes):
    torch.manual_seed(0)
    made = VisionTransformer(ViTConfig(8, 4, 1, 3, L, 4 * h, 8 * h, h, **changes)).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


@given(B=few, L=few, h=few)
def test_it_gives_the_logits_and_gradients_of_the_model(B, L, h):
    whole, images = model(L, h), torch.randn(B, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    quick, weights = shortcut(whole), torch.randn(B, 3, dtype=torch.float64)
    assert isinstance(quick, ClassTokenShortcut)
    assert_close(quick(images), whole(images), **EXACT)
    wanted = [images, *whole.parameters()]
    gradients = [torch.autograd.grad((m(images) * weights).sum(), wanted) for m in (whole, quick)]
    assert_close(*gradients, **EXACT)


@pytest.mark.parametrize("changes", [dict(representation_size=5), dict(positions="none")])
def test_it_holds_for_every_head_and_position(changes):
    whole, images = model(**changes), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    assert_close(shortcut(whole)(images), whole(images), **EXACT)


def test_it_shares_the_models_parameters():
    whole = model()
    quick = shortcut(whole)
    assert {id(p) for p in quick.parameters()} == {id(p) for p in whole.parameters()}


def test_hooks_and_wrapped_blocks_of_the_model_see_every_token():
    class Wrapped(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, z):
            return self.block(z)

    whole, images, shapes = model(), torch.randn(2, 1, 8, 8, dtype=torch.float64), []
    expected = whole(images)
    whole.encoder.blocks[1] = Wrapped(whole.encoder.blocks[1])
    whole.encoder.blocks[1].register_forward_hook(lambda m, i, output: shapes.append(output.shape))
    assert_close(whole(images), expected, **EXACT)
    assert shapes == [(2, 5, 8)]


def test_a_model_whose_head_reads_all_tokens_stays_as_it_is():
    for other in (model(pool="mean"), nn.Linear(2, 2)):
        assert shortcut(other) is other


def test_it_may_see_some_of_the_tokens_alone():
    whole, images = model(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    quick, kept = shortcut(whole), torch.tensor([0, 4, 2])
    quick.kept = kept
    hook = whole.embedding.register_forward_hook(lambda module, given, tokens: tokens[:, kept])
    expected = whole(images)
    hook.remove()
    assert_close(quick.eval()(images), expected, **EXACT)
    assert (expected - whole(images)).abs().max() > 0.01
    assert len(whole.state_dict()) == len(quick.state_dict())  # nothing is kept of it


def test_it_does_less_work():
    whole, images = model(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    work = []
    for network in (whole, shortcut(whole)):
        with FlopCounterMode(display=False) as counter:
            network(images)
        work.append(counter.get_total_flops())
    assert work[1] < 0.8 * work[0]
