"""Every check: right styles pass, known mistakes get the hint that is meant for them.

The styles and the mistakes lie in `tests/mutants`, one file a chapter.
"""

import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vit_tutorial import checks
from vit_tutorial.checks import (
    CheckFailed,
    check,
    check_block,
    check_patchify,
    core,
    passed,
    progress,
)
from vit_tutorial.checks.progress import CHAPTERS, exercises

CHECKS = [getattr(checks, name) for name in checks.__all__ if name.startswith("check_")]
FILES = sorted(path.stem for path in (Path(__file__).parent / "mutants").glob("*.py"))
MODULES = [importlib.import_module(f"mutants.{name}") for name in FILES]
RIGHT = {check: fns for module in MODULES for check, fns in module.RIGHT.items()}
WRONG = {check: cases for module in MODULES for check, cases in module.WRONG.items()}


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    """What is passed in a test is noted in a folder of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def patches(images, P):
    return images.unfold(2, P, P).unfold(3, P, P).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def refusal(checker, answer):
    """The message with which the answer is refused; empty if it passes."""
    try:
        checker(answer)
    except CheckFailed as failure:
        return str(failure)
    return ""


# ---- the mutants


@pytest.mark.parametrize("checker", RIGHT, ids=lambda checker: checker.__name__)
def test_a_right_answer_in_any_style_passes(checker, capsys):
    for answer in RIGHT[checker]:
        checker(answer)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"✓ {answer.__name__} is right")


def long_if_it_trains(checker):
    """The checks of whole models and of the loop take seconds for all their mistakes."""
    slow = ("check_vit_class", "check_block_class", "check_training_loop")
    marks = [pytest.mark.long] if checker.__name__ in slow else []
    return pytest.param(checker, marks=marks)


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.parametrize("checker", [long_if_it_trains(c) for c in WRONG], ids=lambda c: c.__name__)
def test_a_known_mistake_gets_its_hint(checker):
    for number, (answer, hint) in enumerate(WRONG[checker]):
        message = refusal(checker, answer)
        assert re.search(hint, message, re.IGNORECASE), f"mistake {number}: {message}"
        assert message.startswith(answer.__name__)
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize("checker", RIGHT, ids=lambda checker: checker.__name__)
def test_no_hint_is_given_for_right_values_nor_two_hints_for_the_same(checker, monkeypatch):
    seen = []
    monkeypatch.setattr(core, "judge_values", lambda *given: seen.append(given))
    checker(RIGHT[checker][0])
    _, runs, wanted, mistakes = seen[-1]
    values = [[core.value_of(mistake, run) for run in runs] for mistake, _ in mistakes]

    def certain(value):  # computed, and no part of it may be anything
        parts = value if isinstance(value, tuple) else (value,)
        return all(part is not core.NOTHING and part is not None for part in parts)

    def same(some, others):
        pairs = list(zip(some, others, strict=True))
        return all(certain(a) and certain(b) and core.agree(a, b) for a, b in pairs)

    for number, (value, (_, hint)) in enumerate(zip(values, mistakes, strict=True)):
        assert not same(value, [right.value for right in wanted]), f"right, but: {hint}"
        for other in range(number):
            assert hint == mistakes[other][1] or not same(value, values[other])


def test_every_check_has_two_right_styles_and_many_mistakes_are_known():
    assert set(RIGHT) == set(WRONG) == set(CHECKS)
    assert all(len(styles) >= 2 for styles in RIGHT.values())
    assert sum(map(len, WRONG.values())) >= 800


def test_every_check_belongs_to_one_chapter():
    names = [name for chapter in CHAPTERS.values() for name in exercises(chapter)]
    assert sorted(names) == sorted(checker.__name__ for checker in CHECKS)


# ---- what all checks share


class MyUnwritten(torch.nn.Module):
    def __init__(self, *sizes):
        super().__init__()


def my_unwritten(*arguments):
    """What a reader finds in the chapter."""


@pytest.mark.parametrize("checker", CHECKS, ids=lambda checker: checker.__name__)
def test_a_body_not_written_yet_is_no_failure_and_leaves_random_numbers_alone(checker, capsys):
    before = torch.get_rng_state()
    checker(MyUnwritten if checker.__name__.endswith("_class") else my_unwritten)
    assert capsys.readouterr().out.startswith(
        ("○ my_unwritten gave nothing", "○ MyUnwritten has no")
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("wrong", "kind"), [([1.0], "list"), (np.zeros(3), "ndarray"), (1, "int")])
def test_what_is_no_tensor_is_named(wrong, kind):
    with pytest.raises(CheckFailed, match=f"should return a tensor, not {kind}"):
        check_patchify(lambda images, P: wrong)


def test_a_wrong_shape_is_told_with_the_right_one_and_the_input():
    with pytest.raises(CheckFailed, match=r"shape \(2, 1\), expected \(2, 6, 48\) \(for images of"):
        check_patchify(lambda images, P: torch.zeros(2, 1))


def test_a_mistake_nobody_foresaw_is_still_refused_with_its_size():
    trials = [(torch.arange(3.0),)]
    with pytest.raises(CheckFailed, match=r"values are not; the largest difference is 0.5"):
        check(lambda x: 2 * x + 0.5 * (x > 1), lambda x: 2 * x, trials, [])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(lambda x: 6 * x, "each is 3 times what it should be"),
     (lambda x: 2.0004 * x, "each is 1.0002 times what it should be"),
     (lambda x: -2 * x, "each has the wrong sign"),
     (lambda x: 2 * x - 0.25, "each is off by -0.25"),
     (lambda x: 2 * x.flip(0), "the right numbers in other places"),
     (lambda x: (2 * x).view(2, 5), r"expected \(10,\); the numbers are the right ones"),
     (lambda x: 2 * x + x.square(), "the largest difference is")],
)  # fmt: skip
def test_what_all_wrong_numbers_have_in_common_is_told(wrong, words):
    with pytest.raises(CheckFailed, match=words):
        check(wrong, lambda x: 2 * x, [(torch.randn(10),)], [])


def test_a_model_is_not_called_a_tensor_to_work_out_by_hand():
    model = torch.nn.Linear(2, 2)
    for trial, advice in (((torch.ones(3, 2),), True), ((torch.ones(3, 2), model), False)):
        with pytest.raises(CheckFailed) as failure:
            check(lambda x, *_: x**3 + x[0] * 2, lambda x, *_: x + x.cumsum(0), [trial], [])
        assert ("small enough to work out by hand" in str(failure.value)) == advice


@pytest.mark.parametrize("got", [6 / 2, (6 / 2, 1)])
def test_a_float_where_whole_numbers_give_a_count_is_told(got):
    right = (3, 1) if isinstance(got, tuple) else 3
    with pytest.raises(CheckFailed, match="whole number, not a float: did you divide by /"):
        check(lambda x: got, lambda x: right, [(6,)], [])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(lambda model: model.__delitem__(0), "takes parts out of `model`"),
     (lambda model: model.__setitem__(0, torch.nn.Identity()), "changes the parts of `model`"),
     (lambda model: setattr(model[0], "forward", abs), "changes a forward in `model`")],
)  # fmt: skip
def test_a_model_that_the_caller_still_uses_keeps_its_parts(spoil, words):
    model = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(2, 2))
    with pytest.raises(CheckFailed, match=words):
        check(lambda model, x: (spoil(model), 2 * x)[1], lambda model, x: 2 * x,
              [(model, torch.ones(2))], [])  # fmt: skip


def test_numbers_are_written_with_as_many_digits_as_tell_them_apart():
    assert core.written(32.0, 0.0) == ["32", "0"]
    assert core.written(13.933936, 29.152939023) == ["13.93394", "29.15294"]
    assert core.written(1.0, 1.0000000001) == ["1", "1.0000000001"]
    assert core.written(1e6, math.inf) == ["1,000,000", "inf"]


def test_a_hint_is_given_only_where_every_trial_agrees_with_it():
    def twice_unless_long(x):
        return 2 * x if len(x) < 3 else 5 * x

    trials = [(torch.ones(2),), (torch.ones(4),)]
    with pytest.raises(
        CheckFailed, match=r"for x of shape \(4,\)\).*It is right for x of shape \(2"
    ) as it:
        check(
            twice_unless_long,
            lambda x: 1 * x + len(x) - len(x) + x,
            trials,
            [(lambda x: 3 * x, "3!")],
        )
    assert "3!" not in str(it.value)


def test_what_the_readers_code_raises_is_one_line_with_its_own_traceback_below():
    def my_patchify(images, P):
        return images.view(-1, 7)

    with pytest.raises(CheckFailed, match="my_patchify stopped with RuntimeError") as failure:
        check_patchify(my_patchify)
    first, *below = failure.value._render_traceback_()
    assert first.startswith("✗ my_patchify stopped")
    assert any("images.view(-1, 7)" in line for line in below)
    assert not any("core.py" in line for line in below)


def test_a_notebook_shows_the_line_and_no_frame_of_the_checks(capsys):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.run_cell("from vit_tutorial.checks import check_patchify\ncheck_patchify(lambda x, P: x)")
    shown = capsys.readouterr().out
    assert "✗ <lambda>: the result has shape" in shown
    assert "core.py" not in shown


@pytest.mark.parametrize("what", [3, torch.zeros(2), None])
def test_a_result_in_place_of_the_function_is_told(what):
    with pytest.raises(CheckFailed, match="takes the function itself, without brackets"):
        check_patchify(what)


def test_modules_given_to_a_check_keep_their_weights_and_come_again():
    seen = []

    def spoil(z, norm1, attention, norm2, mlp):
        seen.append(mlp[0].weight.clone())
        with torch.no_grad():
            mlp[0].weight.zero_()
        return z

    for _ in range(2):
        with pytest.raises(CheckFailed):
            check_block(spoil)
    assert torch.equal(seen[0], seen[len(seen) // 2])
    assert seen[0].any()


def test_gradients_are_compared_where_the_chapter_has_switched_them_off():
    with torch.no_grad(), pytest.raises(CheckFailed, match="carries no gradient"):
        check_patchify(lambda images, P: patches(images, P).detach())


# ---- what is passed


def test_the_readers_function_is_used_once_it_has_passed_and_the_books_until_then(capsys):
    def my_patchify(images, P):
        return patches(images, P)

    def book_patchify(images, P):
        return patches(images, P)

    assert passed(my_patchify, book_patchify) is book_patchify
    check_patchify(my_patchify)
    assert passed(my_patchify, book_patchify) is my_patchify
    assert passed(my_unwritten, book_patchify) is book_patchify


def test_progress_survives_the_session_and_counts_no_solution_of_the_book(capsys, tmp_path):
    def book_patchify(images, P):
        return patches(images, P)

    check_patchify(book_patchify)
    progress()
    assert "next: check_patchify, chapter 01" in capsys.readouterr().out
    check_patchify(patches)
    assert json.loads((tmp_path / "vit_tutorial" / "progress.json").read_text()) == [
        "check_patchify"
    ]
    progress()
    shown = capsys.readouterr().out
    assert "01 Patching            ✓○○○○      1 of 5" in shown
    assert "next: check_unpatchify, chapter 01" in shown


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]"])
def test_a_spoilt_file_of_progress_is_an_empty_one(text, capsys, tmp_path):
    (tmp_path / "vit_tutorial").mkdir()
    (tmp_path / "vit_tutorial" / "progress.json").write_text(text)
    progress()
    assert "next: check_patchify" in capsys.readouterr().out


def test_where_nothing_can_be_written_a_check_passes_in_silence(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    check_patchify(patches)
    assert capsys.readouterr().out.startswith("✓ patches is right")


def test_a_class_is_right_whatever_was_tried_before_it():
    from vit_tutorial.embedding import Embedding

    class Zeros(Embedding):  # draws fewer random numbers than the right one
        def __init__(self, *sizes):
            super().__init__(*sizes)
            torch.rand(7)

        def forward(self, images):
            return super().forward(images) * 2

    with pytest.raises(CheckFailed):
        checks.check_embedding_class(Zeros)
    checks.check_embedding_class(Embedding)
