"""A run that was stopped, killed or broken goes on, and ends as if nothing had happened."""

import contextlib
import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from vit_tutorial import __main__ as cli
from vit_tutorial import data
from vit_tutorial.lab import folders, loop
from vit_tutorial.lab import run as runs
from vit_tutorial.lab.resume import load_state, save_state
from vit_tutorial.weights import checkpoint

pytestmark = pytest.mark.long

SMALL = ["--layers", "1", "--hidden-size", "16", "--mlp-size", "16", "--heads", "2"]
# everything that has a state of its own: dropout, two kinds of momentum, a mean of the weights
RICH = ["--dropout", "0.1", "--optimizer", "muon", "--average", "0.9", "--label-smoothing", "0.1"]
RUN = ["train", "--data", "digits", "--epochs", "3", "--batch-size", "128", "--device", "cpu"]
RUN += [*SMALL, *RICH, "--save-minutes", "0"]


def quick_pictures(run, *rest):
    """Drawing takes longer than all the rest."""
    for name in ("curves.png", "attention.png"):
        checkpoint.write(run.args.out / name, b"a picture")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(cli, "draw_pictures", quick_pictures)


# One process that has imported everything; it forks a run for every line that it reads.
FORKS = """
import json, os, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from vit_tutorial import __main__ as cli
from vit_tutorial.weights import checkpoint
place = checkpoint.replace_file
def noted(path, content):
    if os.environ.get("RANK", "0") != "0":
        os.write(2, b"another process writes\\n")
    place(path, content)
checkpoint.replace_file = noted
def pictures(run, *rest):
    for name in ("curves.png", "attention.png"):
        checkpoint.write(run.args.out / name, b"a picture")
cli.draw_pictures = pictures
print("ready", flush=True)
for line in sys.stdin:
    words, log, environments = json.loads(line)
    pids = []
    for environment in environments:
        pids.append(os.fork())
        if not pids[-1]:
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            os.environ.update(environment)
            code = 1
            try:
                code = cli.main(words)
            finally:
                sys.stderr.flush()
                os._exit(code)
    print(pids[0], flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(max(codes, key=abs), flush=True)
"""


class Forks:
    """Runs of the command line in processes of their own, without the seconds of their imports."""

    def __init__(self, log):
        self.log = log
        root = os.path.dirname(os.path.dirname(cli.__file__))
        self.server = subprocess.Popen(
            [sys.executable, "-c", FORKS, root],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.server.stdout.readline() == "ready\n"

    def __call__(self, *words, signals=(), watch=None, writes=0, wait=0.0, environments=({},)):
        """The exit code of a run that is sent signals so long after so many writes of a file.

        There are as many processes as environments.
        """
        job = [[str(word) for word in words], str(self.log), environments]
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            while writes:
                before = written(watch)
                while written(watch) == before:
                    os.kill(pid, 0)
                    time.sleep(0.001)
                writes -= 1
            for number in signals:
                time.sleep(wait)
                os.kill(pid, number)
        return int(self.server.stdout.readline())


def written(file):
    """What changes when a file is replaced."""
    return file.stat().st_ino if file.exists() else None


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    made = Forks(tmp_path_factory.mktemp("log") / "log")
    yield made
    made.server.stdin.close()
    made.server.wait(timeout=30)


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """What a run leaves that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert forks(*RUN, "--out", out) == 0
    return out


def same(one, other):
    """Whether two runs ended with the same bits: weights, state, and all figures but seconds."""
    for name, ours in load_state(one / "state.safetensors")[0].tensors.items():
        theirs = load_state(other / "state.safetensors")[0].tensors[name]
        assert ours.flatten().view(torch.uint8).equal(theirs.flatten().view(torch.uint8)), name
    models = [checkpoint.load(out / "model.safetensors")[0].state_dict() for out in (one, other)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    figures = [
        [json.loads(line) | {"seconds": 0} for line in (out / "metrics.jsonl").open()]
        for out in (one, other)
    ]
    assert figures[0] == figures[1]
    return True


def readable(out):
    """Every checkpoint in a folder is whole, and no half-written file has a name of one."""
    for file in out.glob("*.safetensors"):
        (load_state if file.stem == "state" else checkpoint.load)(file)


def test_killed_at_any_moment_a_run_ends_with_the_same_bits(forks, whole, tmp_path):
    dice, kills, folders = random.Random(0), 0, 0
    while kills < 20:
        folders += 1
        out, code = tmp_path / str(folders), None
        while code != 0:
            file = out / "state.safetensors"
            more = ["--resume"] if file.exists() else []
            moment = dict(watch=file, writes=dice.randrange(5), wait=dice.uniform(0, 0.05))
            code = forks(*RUN, "--out", out, *more, signals=[signal.SIGKILL], **moment)
            assert code in (0, -signal.SIGKILL), forks.log.read_text()[-2000:]
            kills += code != 0
            readable(out)
        assert same(out, whole)


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM] * 3, [signal.SIGINT] * 2],
    ids=["int", "term", "term again", "twice"],
)
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(forks, whole, tmp_path, signals):
    out = tmp_path / "out"
    moment = dict(watch=out / "state.safetensors", writes=3, wait=0.002)
    assert forks(*RUN, "--out", out, signals=signals, **moment) == 130
    said = forks.log.read_text().splitlines()[-1]
    assert said.startswith("vit-tutorial: stopped")
    assert said.endswith(f"; go on with: vit-tutorial {' '.join(RUN)} --out {out} --resume")
    readable(out)
    state = load_state(out / "state.safetensors")[0]
    assert 0 < 10 * state.epoch + state.step < 30
    if signals != [signal.SIGINT] * 2:
        assert f"stopped after step {10 * state.epoch + state.step} of 30" in said
    assert forks("train", "--out", out, "--resume") == 0
    assert same(out, whole)


# ---- what is refused


def refused(capsys, *words):
    """What is said on standard error, in one line, with exit code 2."""
    assert cli.main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert said[-1].startswith("vit-tutorial: error: ")
    return said[-1]


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (["--epochs", "4"], "epochs: saved 3, asked 4"),
        (["--pool=mean", "--average", "0.5"], "pool: saved token, asked mean; average: saved"),
        (["--seed", "1"], "seed: saved 0, asked 1; images: saved"),
    ],
)
def test_another_recipe_model_or_data_set_is_refused_with_the_difference(
    whole, more, difference, capsys
):
    before = (whole / "state.safetensors").read_bytes()
    said = refused(capsys, "train", "--resume", "--out", whole, *more)
    assert f"{whole} cannot be resumed with other settings: {difference}" in said
    assert (whole / "state.safetensors").read_bytes() == before


def test_other_images_under_the_same_name_are_refused(whole, monkeypatch, capsys):
    monkeypatch.setattr(runs, "fingerprint", lambda data: "another")
    said = refused(capsys, "train", "--resume", "--out", whole)
    assert said.endswith(", asked another")
    assert "images: saved" in said


def test_a_folder_that_grew_while_a_run_was_stopped_is_read_as_it_was(tmp_path, capsys):
    for i in range(60):
        folder = tmp_path / "photos" / ("cats", "dogs")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 4 * i).save(folder / f"{i}.png")
    stop, words = loop.train_step, ["train", "--data", f"folder:{tmp_path / 'photos'}", *RICH]
    words += ["--epochs", "2", *SMALL, "--batch-size", "8", "--patch-size", "4", "--seed", "3"]
    assert cli.main([*words, "--out", str(tmp_path / "whole")]) == 0
    with pytest.MonkeyPatch.context() as patch:
        calls = []

        def stopping(*arguments):
            calls.append(1)
            if len(calls) == 3:  # in the first epoch: no weights are written yet
                os.kill(os.getpid(), signal.SIGINT)
            return stop(*arguments)

        patch.setattr(loop, "train_step", stopping)
        assert cli.main([*words, "--out", str(tmp_path / "out")]) == 130
    Image.new("RGB", (90, 90)).save(tmp_path / "photos" / "cats" / "1new.png")
    shutil.copy(tmp_path / "photos" / "cats" / "2.png", tmp_path / "photos" / "dogs" / "copy.png")
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "out")]) == 0
    assert "2 images are new since the training began: left out" in capsys.readouterr().err
    assert same(tmp_path / "out", tmp_path / "whole")
    (tmp_path / "photos" / "cats" / "2.png").rename(tmp_path / "photos" / "cats" / "99.png")
    (tmp_path / "out" / "card.json").unlink()
    said = refused(capsys, "train", "--resume", "--out", tmp_path / "out")
    assert "1 of the 60 images that the training had in" in said
    assert said.endswith("are gone, moved or changed: put them back, or begin another training")


def test_other_names_for_the_same_images_are_refused(tmp_path, capsys):
    for i in range(40):
        folder = tmp_path / "photos" / ("cats", "dogs")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * i).save(folder / f"{i}.png")
    words = ["train", "--data", f"folder:{tmp_path / 'photos'}", "--epochs", "1", *SMALL]
    words += ["--batch-size", "8", "--patch-size", "4", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    (tmp_path / "photos" / "dogs").rename(tmp_path / "photos" / "zebras")
    (tmp_path / "photos" / "cats").rename(tmp_path / "photos" / "dogs")
    said = refused(capsys, *words, "--resume")
    assert "40 of the 40 images that the training had in" in said


def test_a_state_that_says_nothing_of_its_run_is_refused(whole, tmp_path, capsys):
    state, about = load_state(whole / "state.safetensors")
    file = tmp_path / "state.safetensors"
    save_state(file, state, {"history": about["history"], "seed": 0})
    said = refused(capsys, "train", "--resume", "--out", tmp_path)
    assert said.endswith(
        f"cannot read {file}: it is of None, not of a run like this one: see its command, "
        "options, settings"
    )


def tensor(name, change):
    """A state one of whose tensors is changed, or taken away."""

    def changed(state, about):
        found = change(state.tensors[name])
        del state.tensors[name]
        state.tensors.update({name: found} if found is not None else {})
        return state, about

    return changed


def told(name, value):
    """A state that says something else of its run."""
    return lambda state, about: (state, {**about, name: value})


LIES = {
    "model.head.bias: saved None": tensor("model.head.bias", lambda t: None),
    "average.head.bias: saved None": tensor("average.head.bias", lambda t: None),
    "optimizer.0.exp_avg: saved None": tensor("optimizer.0.exp_avg", lambda t: None),
    "epoch.generator: saved None": tensor("epoch.generator", lambda t: None),
    # the fused step of PyTorch would write past the end of these
    "optimizer.0.exp_avg: saved float32 (3,)": tensor("optimizer.0.exp_avg", lambda t: t[0, :3]),
    "model.head.bias: saved float32 (9,)": tensor("model.head.bias", lambda t: t[1:]),
    "model.head.bias: saved float64 (10,)": tensor("model.head.bias", lambda t: t.double()),
    "epoch.losses: saved float32 ()": tensor("epoch.losses", lambda t: t[0]),
    "epoch.dropout: saved int64": tensor("epoch.dropout", lambda t: t.long()),
    "average.head.bias holds NaN": tensor("average.head.bias", lambda t: t / 0),
    "optimizer.0.exp_avg holds NaN": tensor("optimizer.0.exp_avg", lambda t: t + float("inf")),
    "it does not say how far": lambda s, about: (replace(s, step=-1), about),
    "no step 10 after epoch 3": lambda s, about: (replace(s, step=10), about),
    "no step 1 after epoch 3": lambda s, about: (replace(s, step=1), about),
    "history is of the epochs [1, 2, 3], expected 1 to 4": lambda s, about: (
        replace(s, epoch=4), about
    ),
    "see its history": told("history", {}),
    "its history has fields that are missing": told("history", [{}] * 3),
    "see its --data": told("options", {"seed": 0}),
    "see its --epochs, --out": told(
        "options", {"seed": 0, "data": "digits", "epochs": "3", "out": "elsewhere"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", LIES)
def test_a_state_that_lies_is_refused_by_name_and_nothing_is_lost(whole, said, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / "copy")
    (out / "card.json").unlink()  # or there would be nothing to do
    file = out / "state.safetensors"
    state, about = LIES[said](*load_state(file))
    save_state(file, state, about)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    line = refused(capsys, "train", "--resume", "--out", out)
    assert f"cannot read {file}: " in line
    assert said in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_is_not_begun_where_another_one_is(whole, tmp_path, capsys):
    assert "already holds a model: give another --out, or --resume" in refused(
        capsys, *RUN, "--out", whole
    )
    assert "holds nothing to resume: start without --resume" in refused(
        capsys, *RUN, "--out", tmp_path, "--resume"
    )


def test_a_finished_run_says_so_and_what_is_missing_is_made_again(whole, tmp_path, capsys):
    assert cli.main(["train", "--resume", "--out", str(whole)]) == 0
    assert f"{whole} is finished: 3 epochs, nothing to do" in capsys.readouterr().out
    out = shutil.copytree(whole, tmp_path / "copy")
    for name in ("card.json", "model.safetensors", "curves.png"):
        (out / name).unlink()
    (out / ".model.safetensors.abcd1234").write_bytes(b"half")  # as a killed process leaves it
    assert cli.main(["train", "--resume", "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == sorted(f.name for f in whole.iterdir())
    assert same(out, whole)
    cards = [json.loads((folder / "card.json").read_text()) for folder in (out, whole)]
    assert [c["test_accuracy"] for c in cards] == [cards[0]["test_accuracy"]] * 2
    assert cards[0]["command"] == cards[1]["command"]  # that of the first start


def test_two_trainings_do_not_write_to_one_folder(whole, tmp_path, capsys):
    held = multiprocessing.get_context("fork")
    begun, end = held.Event(), held.Event()

    def hold():
        with runs.locked(tmp_path):
            begun.set()
            end.wait(60)

    other = held.Process(target=hold)
    other.start()
    assert begun.wait(60)
    said = refused(capsys, *RUN, "--out", tmp_path)
    assert said.endswith(f"another training is at work in {tmp_path}: give another --out")
    other.kill()  # which leaves the file of the lock, but not the lock
    other.join(60)
    assert cli.main([*RUN, "--out", str(tmp_path)]) == 0
    assert same(tmp_path, whole)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("name", ["card.json", "curves.png", "metrics.jsonl"])
def test_files_of_others_are_not_overwritten(name, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    said = refused(capsys, *RUN, "--out", tmp_path)
    assert f"{tmp_path / name} is there, and not of a run to resume: give another --out" in said
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


# ---- damage


@pytest.mark.parametrize("name", ["model.safetensors", "card.json"])
def test_a_torn_file_of_a_finished_run_is_made_again(whole, name, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / "copy")
    (out / name).write_bytes((out / name).read_bytes()[:-9])
    assert cli.main(["train", "--resume", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "is finished" not in said
    assert (f"{out / name} is damaged: made again" in said) == (name == "model.safetensors")
    assert same(out, whole)
    assert cli.main(["train", "--resume", "--out", str(out)]) == 0
    assert "is finished" in capsys.readouterr().out


def test_no_damaged_or_foreign_state_is_ever_taken_for_a_whole_one(whole, tmp_path):
    content, file = (whole / "state.safetensors").read_bytes(), tmp_path / "state.safetensors"
    kept, dice = load_state(whole / "state.safetensors")[0].tensors, random.Random(0)
    torch.save({"tensors": kept}, tmp_path / "pickle")
    others = [(tmp_path / "pickle").read_bytes(), (whole / "model.safetensors").read_bytes()]
    for damaged in [b"", *(content[: len(content) * i // 20] for i in range(20)), *others]:
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"cannot read {file}: "):
            load_state(file)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(file)):
            load_state(file)


def test_a_flipped_bit_in_the_weights_is_noticed(whole, tmp_path, capsys):
    content = bytearray((whole / "model.safetensors").read_bytes())
    content[-100] ^= 4
    (tmp_path / "model.safetensors").write_bytes(content)
    said = refused(capsys, "evaluate", "--weights", tmp_path / "model.safetensors")
    assert "model.safetensors: " in said
    assert "its SHA-256 is" in said


@pytest.mark.parametrize("name", ["state.safetensors", "model.safetensors", "metrics.jsonl"])
def test_a_full_disk_is_named_and_leaves_the_last_good_state(
    whole, name, tmp_path, monkeypatch, capsys
):
    place, calls = checkpoint.replace_file, []

    def full(path, content):
        calls.append(path.name == name)
        if path.name == name and sum(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place(path, content)

    monkeypatch.setattr(checkpoint, "replace_file", full)
    out = tmp_path / "out"
    said = refused(capsys, *RUN, "--out", out)
    assert f"cannot write {out / name}: [Errno 28] No space left on device" in said
    readable(out)
    monkeypatch.setattr(checkpoint, "replace_file", place)
    assert cli.main(["train", "--out", str(out), "--resume"]) == 0
    assert same(out, whole)


def test_a_disk_too_full_for_the_first_state_leaves_a_folder_to_start_in(
    whole, tmp_path, monkeypatch, capsys
):
    place, words = checkpoint.replace_file, [*RUN, "--save-minutes", "5", "--out", tmp_path]

    def full(path, content):
        if path.name == "state.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place(path, content)

    monkeypatch.setattr(checkpoint, "replace_file", full)
    assert f"cannot write {tmp_path / 'state.safetensors'}" in refused(capsys, *words)
    monkeypatch.setattr(checkpoint, "replace_file", place)
    assert cli.main([str(word) for word in words]) == 0
    assert same(tmp_path, whole)


def test_ctrl_c_in_the_last_validation_leaves_the_rest_for_later(
    whole, tmp_path, monkeypatch, capsys
):
    look, looks = loop.evaluate, []

    def interrupted(*arguments):
        looks.append(1)
        if len(looks) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return look(*arguments)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert cli.main([*RUN, "--out", str(tmp_path)]) == 130
    assert "stopped before testing; go on with: vit-tutorial train" in capsys.readouterr().err
    assert not (tmp_path / "card.json").exists()
    assert cli.main(["train", "--out", str(tmp_path), "--resume"]) == 0
    assert (tmp_path / "card.json").exists()
    assert same(tmp_path, whole)


def test_a_folder_that_cannot_be_written_is_named_before_the_first_step(tmp_path, capsys):
    (tmp_path / "file").touch()
    said = refused(capsys, *RUN, "--out", tmp_path / "file" / "out")
    assert f"cannot write {tmp_path / 'file' / 'out' / 'metrics.jsonl'}: [Errno 20]" in said


@pytest.mark.parametrize("silent", [False, True], ids=["loss", "weights"])
def test_a_loss_that_is_not_finite_leaves_the_last_good_state(
    whole, silent, tmp_path, monkeypatch, capsys
):
    step, calls = loop.train_step, []

    def breaking(model, *rest):
        calls.append(1)
        loss, accuracy = step(model, *rest)
        if len(calls) == 14 and silent:  # the loss before this update was still good
            torch.nn.init.constant_(model.model.head.bias, float("nan"))
        return (loss * float("nan") if len(calls) == 15 else loss), accuracy

    monkeypatch.setattr(loop, "train_step", breaking)
    said = refused(capsys, *RUN, "--out", tmp_path / "out")
    assert "the loss became nan at step 15 (learning rate 0.00" in said
    state = load_state(tmp_path / "out" / "state.safetensors")[0]
    assert (state.epoch, state.step) == (1, 3 if silent else 4)
    monkeypatch.setattr(loop, "train_step", step)
    assert cli.main(["train", "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert same(tmp_path / "out", whole)


def test_a_device_that_cannot_do_what_is_asked_is_named(tmp_path, monkeypatch, capsys):
    for error, told in (
        (RuntimeError("no compiler\nand more"), "no compiler"),
        (AssertionError(), "AssertionError"),
    ):
        monkeypatch.setattr(torch, "compile", Mock(side_effect=error))
        said = refused(capsys, *RUN, "--out", tmp_path / "out", "--compile")
        assert said.endswith(f"cpu cannot do --compile here: {told}")
    said = refused(capsys, *RUN, "--out", tmp_path / "out", "--device", "meta")
    assert said.endswith("cannot use the device 'meta': expected cpu, cuda or mps")
    assert not (tmp_path / "out").exists()


def test_a_process_that_reads_images_and_ends_is_said_with_how_to_go_on(
    whole, tmp_path, monkeypatch, capsys
):
    step, calls = loop.train_step, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", dying)
    said = refused(capsys, *RUN, "--out", tmp_path)
    again = f"go on with: vit-tutorial {' '.join(RUN)} --out {tmp_path} --resume"
    assert said.endswith(f"DataLoader worker (pid 7) is killed by signal: Killed.; {again}")
    assert cli.main(["train", "--out", str(tmp_path), "--resume"]) == 0
    assert same(tmp_path, whole)


# ---- other ways to train


def stopped_and_resumed(out, *words):
    """A run that Ctrl-C stops in its second epoch, beside one that nobody stops."""
    for name in ("whole", "parts"):
        step, calls = loop.train_step, []

        def noted(*arguments, name=name, step=step, calls=calls):
            calls.append(1)
            if len(calls) == 14 and name == "parts":
                os.kill(os.getpid(), signal.SIGINT)
            return step(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train_step", noted)
            code = cli.main([*words, "--out", str(out / name)])
            assert code == (130 if name == "parts" else 0)
    more = ["--compile"] if "--compile" in words else []
    assert cli.main(["train", "--out", str(out / "parts"), "--resume", *more]) == 0
    assert same(out / "parts", out / "whole")


@pytest.mark.parametrize(
    "way",
    [["--compile"], ["--compile", "--drop-patches", "0.5"], ["--precision", "bf16"]],
    ids=["compile", "compile_half", "bf16"],
)
def test_other_arithmetic_goes_on_as_well(way, tmp_path, monkeypatch):
    # the model is traced as for any compiler, which is what could go wrong here
    traced = Mock(side_effect=partial(torch.compile, backend="eager"))
    monkeypatch.setattr(torch, "compile", traced)
    stopped_and_resumed(tmp_path, *RUN, *way)
    assert traced.called == ("--compile" in way)


def test_images_on_disk_train_as_those_in_memory_do_and_go_on(tmp_path, monkeypatch):
    images, labels = data.digits()
    for i in range(1000):
        folder = tmp_path / "images" / str(int(labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i, 0].numpy()).save(folder / f"{i}.png")
    words = [*RUN, "--data", f"folder:{tmp_path / 'images'}", "--epochs", "3", "--patch-size", "7"]
    words += ["--batch-size", "64"]
    assert cli.main([*words, "--out", str(tmp_path / "memory")]) == 0
    monkeypatch.setattr(folders, "MEMORY", 0)
    monkeypatch.setattr(folders, "WORKERS", 1)
    stopped_and_resumed(tmp_path, *words)
    weights = [
        checkpoint.load(tmp_path / name / "model.safetensors")[0].state_dict()
        for name in ("memory", "whole")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
