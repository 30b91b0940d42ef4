"""Two processes train as one does; when one dies, the job ends and its state goes on."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import SMALL, Forks, readable
from torch.testing import assert_close

from vit_tutorial import __main__ as cli
from vit_tutorial.lab import distributed
from vit_tutorial.lab.loop import check_shards
from vit_tutorial.lab.recipes import Recipe
from vit_tutorial.lab.resume import load_state

pytestmark = pytest.mark.long

RUN = ["train", "--data", "digits", "--epochs", "2", "--batch-size", "128", "--device", "cpu"]
RUN += [*SMALL, "--save-minutes", "0", "--optimizer", "adamw"]
RECIPES = {
    "adamw": dict(epochs=1, batch_size=128, learning_rate=1e-2),
    "muon": dict(epochs=1, batch_size=128, learning_rate=1e-2, optimizer="muon", accumulate=2),
    "cutmix": dict(epochs=1, batch_size=128, learning_rate=1e-2, cutmix=1.0, average=0.5),
    "parts": dict(epochs=1, batch_size=128, learning_rate=1e-2, accumulate=2, layer_decay=0.5),
    "few": dict(epochs=1, batch_size=128, learning_rate=1e-2, shortcut=True, drop_patches=0.5),
}
WAYS = ["ddp", "fsdp"]

# Float64 weights after every recipe, by one process or by as many as torchrun starts.
IN_DOUBLE = """
import sys, torch
from dataclasses import replace
from safetensors.torch import save_file
from vit_tutorial.lab import distributed
from vit_tutorial.data import load
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.lab.loop import Training
from vit_tutorial.lab.recipes import Recipe

def in_double(recipes, path, way="ddp"):
    distributed.join(torch.device("cpu"))
    found, shards = {}, torch.device("cpu") if way == "fsdp" else None
    for name, recipe in recipes.items():
        if way == "fsdp" and name in ("muon", "few"):
            continue
        torch.manual_seed(0)
        model = VisionTransformer(ViTConfig(28, 7, 1, 10, 1, 16, 16, 2)).double()
        generator = torch.Generator().manual_seed(0)
        training = Training(
            model, load("digits"), Recipe(**recipe), generator, shards=shards
        )
        (epoch,) = training.epochs()
        if shards and distributed.processes() > 1:  # half of every matrix
            held = [p.to_local().numel() for p in training.trained.parameters() if p.ndim == 2]
            whole = [p.numel() for p in model.parameters() if p.ndim == 2]
            assert held == [n // 2 for n in whole], (held, whole)
        found |= {f"{name}.{k}": v for k, v in model.state_dict().items()}
        found[f"{name}.loss"] = torch.tensor([epoch.train_loss, epoch.val_loss])
    if distributed.rank() == 0:
        save_file(found, path)
"""
# The same, then the command line, in which process 1 kills itself.
JOB = (
    IN_DOUBLE
    + """
import json, os, signal
in_double(json.loads(sys.argv[1]), sys.argv[2], sys.argv[-1])
from vit_tutorial import __main__ as cli
from vit_tutorial.lab import run as runs
place = runs.checkpoint.replace_file
def noted(path, content):
    os.write(2, f"process {distributed.rank()} writes\\n".encode())
    place(path, content)
runs.checkpoint.replace_file = noted
class Dying(runs.Training):
    def epochs(self, on_step):
        def watched(step):
            if distributed.rank() == 1 and step.number == 14:
                os.kill(os.getpid(), signal.SIGKILL)
            on_step(step)
        return super().epochs(watched)
runs.Training = Dying
sys.exit(cli.main(sys.argv[3:]))
"""
)


@pytest.fixture(scope="module", params=WAYS)
def job(tmp_path_factory, request):
    """What torchrun with two processes leaves and says, each with the whole model or a share."""
    home = tmp_path_factory.mktemp("job")
    (home / "job.py").write_text(JOB)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words += ["--local-addr=127.0.0.1", home / "job.py", json.dumps(RECIPES), home / "double"]
    root = str(Path(cli.__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ["PYTHONPATH"]])
    run = subprocess.run(
        [*map(str, words), *RUN, "--out", str(home / "out"), "--parallel", request.param],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    return home, run


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same by one process."""
    home = tmp_path_factory.mktemp("alone")
    space: dict = {}
    exec(IN_DOUBLE, space)
    space["in_double"](RECIPES, home / "double")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "draw_pictures", lambda *arguments: None)
        assert cli.main([*RUN, "--out", str(home / "out")]) == 0
    return home


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([[line["train_loss"], line["val_loss"]] for line in lines])


def test_two_processes_give_the_weights_of_one(job, alone):
    ours, theirs = load_file(alone / "double"), load_file(job[0] / "double")
    refused = {name for name in ours if name.startswith(("muon", "few"))}  # by fsdp
    assert set(ours) - set(theirs) == (refused if "fsdp" in job[1].args else set())
    for name, tensor in theirs.items():
        small = 1e-6 if name.endswith(".loss") else 1e-8  # losses are float32
        assert_close(tensor, ours[name], atol=small, rtol=small, msg=name)


def test_a_process_that_dies_ends_the_job_with_a_message_and_a_whole_state(job):
    home, run = job
    assert run.returncode != 0
    assert "Signal 9 (SIGKILL)" in run.stderr
    readable(home / "out")
    state, about = load_state(home / "out" / "state.safetensors")
    assert (state.epoch, state.step, len(about["history"])) == (1, 3, 1)
    assert len((home / "out" / "metrics.jsonl").read_text().splitlines()) == 1


def test_only_the_first_process_speaks_and_writes(job):
    home, run = job
    assert run.stdout.count("1318 images to train on") == 1
    assert run.stdout.count("epoch   1: training loss") == 1
    assert "process 0 writes" in run.stderr
    assert "process 1 writes" not in run.stderr
    names = sorted(file.name for file in (home / "out").iterdir())
    assert names == ["metrics.jsonl", "model.safetensors", "state.safetensors"]


def two(port):
    """What torchrun says to each of two processes."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["TORCHELASTIC_RUN_ID"] = "test"
    return [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_two_processes_have_left_goes_on_with_one_or_two(
    job, alone, processes, tmp_path, unused_port, monkeypatch
):
    out = shutil.copytree(job[0] / "out", tmp_path / "out")
    way = "ddp" if "fsdp" in job[1].args else "fsdp"  # the two go on the other way
    if processes == 2:
        forks = Forks(tmp_path / "log")
        for missing in ("card.json", "curves.png"):  # the second time only the rest is made
            (out / missing).unlink(missing_ok=True)
            words = ["train", "--out", out, "--resume", "--parallel", way]
            assert forks(*words, environments=two(unused_port)) == 0
        forks.server.stdin.close()
        assert "another process writes" not in (tmp_path / "log").read_text()
    else:
        monkeypatch.setattr(cli, "draw_pictures", lambda *arguments: None)
        assert cli.main(["train", "--out", str(out), "--resume"]) == 0
    assert_close(losses(out), losses(alone / "out"), atol=1e-4, rtol=1e-4)
    assert (out / "card.json").exists()


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(distributed.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="process 1 needs a GPU of its own, found 1"):
        distributed.join(torch.device("cuda"))


@pytest.mark.parametrize(
    ("changes", "compiled", "message"),
    [
        (dict(optimizer="muon"), False, "fsdp trains with adamw: muon needs whole matrices"),
        (dict(drop_patches=0.5), False, "fsdp leaves no patches out: set drop_patches to 0"),
        ({}, True, "fsdp and compile do not go together here: leave one of them out"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_shared(changes, compiled, message):
    with pytest.raises(ValueError, match=message):
        check_shards(Recipe(**changes), compiled)


def test_an_unknown_way_to_share_is_named(capsys, tmp_path):
    assert cli.main([*RUN, "--out", str(tmp_path / "out"), "--parallel", "fdsp"]) == 2
    assert "unknown parallel 'fdsp'" in capsys.readouterr().err


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 8 cannot be shared by 3 processes in 2 parts"):
        distributed.share(torch.zeros(8, 1), 2)


@pytest.fixture
def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
