"""The package as others meet it: its names, its import, its shapes, its wheel."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from jaxtyping import TypeCheckError

import vit_tutorial
from vit_tutorial import attention, attention_maps, embedding, encoder, model, patches, positions
from vit_tutorial.data import Split, batches

ROOT = Path(__file__).resolve().parents[1]
DRAWING = ("figures.", "checks.", "benchmarks.")  # with small parts whose names say enough
PACKAGE = ROOT / "vit_tutorial"
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def python(program, *arguments, cwd=None):
    """A new Python without the hook that checks shapes, as users have it; what it prints."""
    command = [sys.executable, *([program] if program == "-m" else ["-c", program]), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]),
    }
    run = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


# ---- names


def test_the_package_offers_five_names():
    assert sorted(vit_tutorial.__all__) == [
        "ViTConfig", "VisionTransformer", "from_checkpoint", "load_pretrained", "variant",
    ]  # fmt: skip
    assert all(hasattr(vit_tutorial, name) for name in vit_tutorial.__all__)


CONTRACT = {
    "patches.patchify": "images P",
    "patches.unpatchify": "patches P rows",
    "embedding.PatchEmbedding": "P C D",
    "embedding.Embedding": "image_size P C D dropout positions class_token",
    "positions.sincos_positions": "rows cols D",
    "positions.resample_positions": "positions old_grid new_grid prefix_tokens",
    "attention.attention_weights": "q k",
    "attention.MultiHeadSelfAttention": "D h",
    "encoder.MLP": "D mlp_size dropout gelu",
    "encoder.EncoderBlock": "D h mlp_size dropout epsilon gelu",
    "encoder.Encoder": "L D h mlp_size dropout epsilon gelu",
    "model.ViTConfig": "image_size patch_size channels classes layers hidden_size mlp_size heads "
    "dropout positions pool representation_size epsilon gelu",
    "model.VisionTransformer": "config",
    "model.variant": "name overrides",
    "weights.checkpoint.load_pretrained": "name",
    "weights.checkpoint.save": "path model more",
    "weights.checkpoint.load": "path",
    "weights.layouts.from_timm": "source image_size",
    "weights.layouts.from_torchvision": "source image_size",
    "weights.layouts.from_huggingface": "source image_size",
    "weights.layouts.from_npz": "source image_size",
    "weights.layouts.to_timm": "state image_size channels",
    "weights.layouts.read_checkpoint": "source image_size heads epsilon gelu",
    "weights.hub.from_checkpoint": "name",
    "data.Split": "images labels mean std",
    "data.Data": "name train val test classes",
    "data.default_dataset": "",
    "data.batches": "split batch_size generator augment device dtype start",
    "train.train": "model data config generator",
    "train.evaluate": "model split batch_size",
    "train.schedule": "progress warmup",
    "train.parameter_groups": "model weight_decay",
    "attention_maps.class_token_maps": "maps rows cols",
    "attention_maps.attention_rollout": "maps",
    "attention_maps.attention_distance": "maps rows cols",
    "attention_maps.position_similarity": "positions rows cols",
    "checks.check_patchify": "implementation",
    "checks.check_attention_weights": "implementation",
    "checks.check_multi_head": "implementation",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_what_chapters_and_readers_call_keeps_its_arguments(name):
    assert (
        list(inspect.signature(resolve_name(f"vit_tutorial.{name}")).parameters)
        == CONTRACT[name].split()
    )


def test_the_records_of_training_keep_their_fields():
    train = import_module("vit_tutorial.train")
    fields = ["number", "train_loss", "val_loss", "val_accuracy", "seconds"]
    assert list(train.Epoch.__dataclass_fields__) == fields
    assert train.Metrics._fields == ("loss", "accuracy")


# ---- manners


@pytest.mark.parametrize("name", SOURCES)
def test_modules_classes_and_functions_say_what_they_promise(name):
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    silent = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body if not name.startswith(DRAWING) else []:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            silent += [] if ast.get_docstring(node) else [node.name]
    assert not silent


@pytest.mark.parametrize("name", SOURCES)
def test_errors_of_users_do_not_hang_on_assert_which_python_can_switch_off(name):
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


IMPORT_ALL = """
import os, sys
import numpy, random, torch, torchvision, sklearn.datasets, matplotlib.pyplot
before = (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist(),
          torch.get_num_threads(), torch.get_default_dtype(), dict(matplotlib.rcParams),
          sorted(os.environ.items()))
for name in sys.argv[1:]:
    __import__(f"vit_tutorial.{name}".removesuffix(".__init__"))
after = (torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist(),
         torch.get_num_threads(), torch.get_default_dtype(), dict(matplotlib.rcParams),
         sorted(os.environ.items()))
assert before == after
assert not torch.cuda.is_initialized()
"""


@pytest.mark.long
def test_nothing_happens_at_import(tmp_path):
    assert python(IMPORT_ALL, *SOURCES, cwd=tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def imports(path):
    """The modules of the package that a module imports, also those inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    known = {f"vit_tutorial.{name}".removesuffix(".__init__"): name for name in SOURCES}
    return {known[name] for name in found if name in known} - {"__init__"}


def test_arrows_go_down_the_house_and_never_in_a_circle():
    uses = {name: imports(path) for name, path in SOURCES.items() if name != "__init__"}
    reach = {name: set(used) for name, used in uses.items()}
    for _ in reach:
        for name in reach:
            reach[name] |= {deeper for used in reach[name] for deeper in reach.get(used, ())}
    assert [name for name in reach if name in reach[name]] == []
    model = {"patches", "embedding", "positions", "attention", "encoder", "model", "errors"}
    allowed = {"figures": {"figures", "errors"}, "weights": {"weights", "data", *model}}
    allowed |= dict.fromkeys(model, model) | {"data": {"data", "errors"}}
    allowed |= {"train": {"train", "data", *model}, "attention_maps": {"attention_maps"}}
    for name, used in uses.items():
        rooms = {deeper.partition(".")[0] for deeper in used}
        assert rooms <= allowed.get(name.partition(".")[0], rooms), name
        if not name.startswith(("checks", "benchmarks", "__main__")):
            assert not rooms & {"checks", "benchmarks", "__main__"}, name
        if not name.startswith(("lab", "checks", "benchmarks", "__main__")):
            assert "lab" not in rooms, name


# ---- without the hook, as users have it

AS_USERS_HAVE_IT = """
import torch
from vit_tutorial import ViTConfig, VisionTransformer

tiny = dict(patch_size=4, channels=3, classes=5, layers=2, hidden_size=16, mlp_size=32, heads=4)
for more in (
    dict(image_size=(8, 12), dropout=0.1),
    dict(image_size=48, pool="mean", positions="sincos"),
):
    model = VisionTransformer(ViTConfig(**tiny, **more)).double().eval()
    torch.nn.init.normal_([m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1].weight)
    images = torch.randn(2, 3, *model.config.height_width, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images), model(images))
    print("compiled")
    for wrong in (images[0], images[:, :2], images[..., 1:], images[None]):
        try:
            model(wrong)
        except ValueError as error:
            assert str(tuple(wrong.shape[1:])) in str(error)
            print("refused")
"""


@pytest.mark.long
def test_the_compiled_model_gives_the_same_logits_and_wrong_images_are_refused():
    assert python(AS_USERS_HAVE_IT).split() == (["compiled"] + ["refused"] * 4) * 2


# ---- shapes in signatures

x, grid = torch.zeros(2, 5, 8), torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: patches.patchify(grid[0], 4),  # no batch
        lambda: patches.patchify(grid.byte(), 4),  # raw bytes
        lambda: patches.unpatchify(grid, 4, 2),
        lambda: embedding.PatchEmbedding(4, 3, 8)(x),
        lambda: attention.attention_weights(x, x[None]),  # of as many heads
        lambda: attention.attention_weights(x, x[..., :4]),  # of the same size
        lambda: attention.attention_weights(x[:, :1], x),  # of as many queries as keys
        lambda: attention.MultiHeadSelfAttention(8, 2)(x[0]),
        lambda: attention.MultiHeadSelfAttention(8, 2).weights(x[None]),
        lambda: encoder.EncoderBlock(8, 2, 8)(x.long()),
        lambda: encoder.Encoder(1, 8, 2, 8)(x[0]),
        lambda: model.VisionTransformer(model.variant("Ti/16", layers=1))(grid[0]),
        lambda: positions.resample_positions(x, (2, 2), (3, 3)),  # one table, not two
        lambda: attention_maps.attention_rollout(torch.zeros(1, 2, 3, 4, 5)),  # T by T
        lambda: attention_maps.attention_rollout(torch.zeros(2, 3, 4, 4)),
        lambda: Split(grid.byte(), torch.zeros(2).long(), torch.zeros(3), torch.ones(3)),
        lambda: Split(grid.byte(), torch.zeros(1).long(), torch.zeros(1), torch.ones(1)),
        lambda: Split(grid, torch.zeros(1).long(), torch.zeros(3), torch.ones(3)),
        lambda: next(batches(x, 2, None)),
    ],
)
def test_a_tensor_of_another_shape_than_the_signature_says_is_rejected(call):
    with pytest.raises(TypeCheckError):
        call()


# ---- the wheel


def test_the_wheel_holds_the_package_its_types_and_its_weights_and_nothing_else(tmp_path):
    python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = [name for name in archive.namelist() if ".dist-info/" in name]
    expected = {f"vit_tutorial/{path.relative_to(PACKAGE).as_posix()}" for path in SOURCES.values()}
    models = [f"{m}.{end}" for m in ("mnist", "mnist-best", "mnist-int8", "fashion")
              for end in ("json", "safetensors")]  # fmt: skip
    expected |= {f"vit_tutorial/weights/pretrained/{name}" for name in models}
    records = (PACKAGE / "benchmarks" / "records").glob("*.*")
    expected |= {f"vit_tutorial/benchmarks/records/{path.name}" for path in records}
    assert set(names) == expected | {"vit_tutorial/py.typed"}
    assert any(name.endswith("LICENSE") for name in metadata)
    assert any(name.endswith("entry_points.txt") for name in metadata)


def test_two_builds_from_two_copies_give_the_same_wheel(tmp_path):
    wheels = []
    for name in ("one", "two"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, tmp_path / name / "vit_tutorial", ignore=ignore)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, tmp_path / name)
        for path in tmp_path.glob("two/**/*.py"):
            os.utime(path, (10**9, 10**9))  # another time than the other copy's
        python("-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=tmp_path / name)
        wheels += [path.read_bytes() for path in (tmp_path / name / "dist").glob("*.whl")]
    assert len(wheels) == 2
    assert wheels[0] == wheels[1]
