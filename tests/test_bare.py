"""Nothing depends on what a machine happens to have: a locale, a home folder, plain names, git."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*ROOT.glob("vit_tutorial/**/*.py"), *ROOT.glob("tools/**/*.py")]
SOURCES += ROOT.glob("book/_ext/*.py")
TEXT = ("read_text", "write_text")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_files_are_utf8_whatever_the_locale_says(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in TEXT:
            assert "encoding" in [word.arg for word in node.keywords], ast.unparse(node)


@pytest.mark.long
def test_the_command_line_needs_no_home_no_locale_no_git_and_no_plain_names(tmp_path):
    folder = tmp_path / "a place of ö"
    for name in ("Kätzchen", "two words"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(np.full((16, 16, 3), 16 * i, np.uint8)).save(
                folder / "photos" / name / f"ü {i}.png"
            )
    bare = {"PATH": os.defpath, "HOME": str(tmp_path / "none"), "LANG": "C", "TZ": "Asia/Kathmandu"}
    bare["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])

    def say(*words):
        run = subprocess.run(
            [sys.executable, "-m", "vit_tutorial", *words],
            cwd=folder, env=bare, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr.decode()
        return run.stdout.decode()

    small = ["--layers", "1", "--hidden-size", "8", "--heads", "2", "--epochs", "1"]
    say("train", "--data", "folder:photos", "--batch-size", "4", "--out", "läuft", *small)
    model, photo = "läuft/model.safetensors", "photos/Kätzchen/ü 0.png"
    said = say("predict", photo, "--weights", model, "--top", "2", "--maps", "kärtchen.png")
    assert "Kätzchen" in said
    assert (folder / "kärtchen.png").is_file()
