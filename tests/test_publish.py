"""The repository's address comes from where the book is built, and stands in published copies."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import yaml

from tools.sync_book import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import address
import colab_check
import publish

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import website

FORK = "someone/their-fork"
NAMES = ["pagoda", "palace", "boat", "bee", "bus"]


@pytest.fixture
def fork(monkeypatch):
    """A checkout of somebody's fork."""
    monkeypatch.setenv("VIT_TUTORIAL_REPOSITORY", FORK)
    address.repository.cache_clear()
    yield FORK
    address.repository.cache_clear()


@pytest.mark.parametrize(
    ("remote", "slug"),
    [
        ("https://github.com/someone/their-fork.git", FORK),
        ("https://token@github.com/someone/their-fork", FORK),
        ("git@github.com:someone/their-fork.git", FORK),
        ("ssh://git@github.com/someone/their-fork/", FORK),
        ("https://github.com/someone/dots.in.it.git", "someone/dots.in.it"),
        ("https://gitlab.com/someone/their-fork.git", ""),
        ("https://github.com.example.org/someone/their-fork", ""),
        ("/srv/git/their-fork.git", ""),
        ("", ""),
    ],
)
def test_the_address_is_read_off_the_remote(remote, slug):
    assert address.slug_of(remote) == slug


def test_pages_lie_below_the_owner():
    assert address.pages("Someone/Their-Fork") == "https://someone.github.io/Their-Fork/"
    assert address.pages("someone/someone.github.io") == "https://someone.github.io/"


def test_an_address_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("VIT_TUTORIAL_REPOSITORY", "not an address")
    address.repository.cache_clear()
    with pytest.raises(ValueError, match="not an address"):
        address.repository()
    address.repository.cache_clear()


def test_no_file_but_the_notebooks_holds_the_placeholder():
    known = {"tools/address.py", "tools/sync_book.py", "tools/publish.py", "book/_ext/website.py"}
    known |= {"tests/test_publish.py", "CONTRIBUTING.md"}
    command = ["git", "grep", "-l", "OWNER/REPO", "--", ":!*.ipynb", ":!.github"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert set(found.split()) <= known


def test_what_is_published_leads_to_the_fork(fork, tmp_path):
    bare, clone = tmp_path / "their-fork.git", tmp_path / "clone"
    subprocess.run(["git", "init", "-q", "--bare", str(bare)], check=True)
    assert publish.main(["--push", str(bare)]) == 0
    subprocess.run(["git", "clone", "-q", "-b", "colab", str(bare), str(clone)], check=True)
    notebooks = {path.relative_to(clone).as_posix() for path in clone.glob("book/**/*.ipynb")}
    assert notebooks == {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("book/*.ipynb"), *ROOT.glob("book/exercises/*.ipynb")]
    }
    for path in clone.glob("book/**/*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert "OWNER/REPO" not in text
        assert f"pip install -q git+https://github.com/{FORK}" in text


def test_every_link_of_every_chapter_leads_to_a_file(fork, tmp_path):
    assert publish.write(tmp_path, FORK)
    raw = f"github.com/{FORK}/blob"
    for path in ROOT.glob("book/[0-9]*.ipynb"):
        for label, link in website.links(f"book/{path.stem}", FORK):
            link = unquote(link)
            if "mybinder.org" in link:
                there = ROOT / link.split(f"/{FORK}/main?labpath=")[1]
            elif "colab.research" in link:
                there = tmp_path / link.split(f"/github/{FORK}/blob/colab/")[1]
            elif "/issues/new" in link:
                template = link.split("issues/new?template=")[1].split("&")[0]
                there = ROOT / ".github" / "ISSUE_TEMPLATE" / template
            elif link.startswith("../_sources/"):
                there = ROOT / link.removeprefix("../_sources/")
            else:
                there = ROOT / link.split(f"https://{raw}/main/")[1]
            assert there.is_file(), (label, link)


def test_binder_installs_the_package_and_jupyterlab():
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {"torch", "torchvision", "."} <= set(lines)
    assert any(line.startswith("jupyterlab") for line in lines)
    version = (ROOT / ".binder" / "runtime.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"python-3\.1[1-3]", version)


def test_nothing_is_published_without_an_address(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(publish, "repository", lambda: address.PLACEHOLDER)
    assert publish.main([str(tmp_path / "copies")]) == 1
    assert "VIT_TUTORIAL_REPOSITORY" in capsys.readouterr().err
    assert not (tmp_path / "copies").exists()


def test_every_action_is_pinned_and_every_command_is_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in ROOT.glob(".github/workflows/*.yml"):
        work = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert work["permissions"] == {"contents": "read"}, path.name
        for step in (step for job in work["jobs"].values() for step in job["steps"]):
            if "uses" in step:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]), step
            for words in re.findall(r"\bmake ((?:[a-z]+ ?)+)", step.get("run", "")):
                assert set(words.split()) <= targets, step
            for script in re.findall(r"tools/\w+\.py", step.get("run", "")):
                assert (ROOT / script).exists(), step


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub on this machine, as far as downloading one model needs it."""

    folder: Path

    def do_GET(self, body=True):
        api = re.fullmatch(r"/api/models/([\w./-]+?)(/revision/main)?(\?.*)?", self.path)
        name = self.path.rsplit("/", 1)[-1]
        headers = {"X-Repo-Commit": "a" * 40, "ETag": f'"{name}"'}
        there = [(path.name, path.stat().st_size) for path in self.folder.iterdir()]
        if "/tree/" in self.path:
            content = json.dumps([
                {"type": "file", "path": path, "size": size, "oid": path} for path, size in there
            ]).encode()  # fmt: skip
        elif api:
            files = [{"rfilename": path} for path, _ in there]
            content = json.dumps({"id": api[1], "sha": "a" * 40, "siblings": files}).encode()
        elif "/resolve/" in self.path and (self.folder / name).exists():
            content = (self.folder / name).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET(body=False)

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.long
def test_the_cells_that_need_a_network_show_what_they_fetch(tmp_path):
    transformers = pytest.importorskip("transformers", reason="in the extra `compare`")
    Hub.folder = tmp_path / "hub"
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        image_size=32, patch_size=8, id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(Hub.folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(Hub.folder)
    cells = nbformat.read(ROOT / "book" / "12_transfer.ipynb", as_version=4).cells
    chosen = [c.source for c in cells if {"network", "setup"} & set(c.metadata.get("tags", []))]
    source = "\n".join([chosen[0].replace("%pip", "# %pip").replace("    # %pip", "    pass  # "),
                        *chosen[1:]])  # fmt: skip
    source = re.sub(r'"timm:\S+", ', "", source)  # that name leads to another file of the hub
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        settings = {"VIT_TUTORIAL_FETCH": "1", "HF_ENDPOINT": here, "HF_HOME": str(tmp_path)}
        settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "MPLBACKEND": "agg"}
        run = subprocess.run(
            [sys.executable, "-c", source], env={**os.environ, **settings}, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        server.shutdown()
    assert run.returncode == 0, run.stderr
    assert "hf:google/vit-base-patch16-224\n  not in" not in run.stdout
    shares = re.findall(r"([\d.]+)%  (\w+)", run.stdout)
    assert {name for _, name in shares} == set(NAMES)
    assert sum(float(share) for share, _ in shares) == pytest.approx(100, abs=0.5)


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Makes the check's environment without installing anything; what was made, in `made`."""

    def make():
        return colab_check.Colab(tmp_path, [])

    make.made = []
    monkeypatch.setattr(colab_check.venv, "create", lambda *_, **__: make.made.append(1))
    monkeypatch.setattr(
        colab_check.Colab, "do", lambda self, place, *words: "[]" if "list" in words else ""
    )
    return make


def test_an_environment_is_kept_while_it_is_made_of_the_same(colab, monkeypatch):
    for given, times in ((["torch"], 1), (["torch"], 1), (["numpy"], 2), (["torch"], 3)):
        monkeypatch.setattr(colab_check, "GIVEN", given)
        colab()
        assert len(colab.made) == times


def test_a_notebook_that_installs_nothing_is_told_in_words(colab, tmp_path):
    notebook = tmp_path / "a.ipynb"
    notebook.write_text("{}", encoding="utf-8")
    with pytest.raises(RuntimeError, match="no cell installs the package"):
        colab().run(notebook)
