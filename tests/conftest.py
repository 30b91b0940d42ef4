"""Shapes in signatures are checked, nothing reaches the network, no window opens."""

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_NETWORK = str(ROOT / "tools" / "no_network")
sys.path.insert(0, NO_NETWORK)
import no_network  # noqa: E402

no_network.cut()
# the kernels and programs that a test starts are cut off too
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([NO_NETWORK, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
)
# an empty folder: a test that asks for the default data gets the embedded digits; the processes
# of pytest-xdist inherit what is set here, and must still learn what the caller set
REAL_DATA = os.environ.setdefault("VIT_TUTORIAL_REAL", os.environ.get("VIT_TUTORIAL_DATA", ""))
EMPTY = tempfile.TemporaryDirectory(prefix="vit-tutorial-")
os.environ["VIT_TUTORIAL_DATA"] = EMPTY.name
os.environ["VIT_TUTORIAL_BUDGET"] = "quick"
os.environ["MATPLOTLIBRC"] = os.devnull  # a figure has the package's settings, not the user's

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("vit_tutorial", "beartype.beartype")  # before the package is imported

import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

matplotlib.use("Agg")
torch.set_num_threads(1)  # on tiny tensors a second thread costs more than it gives
settings.register_profile("same every time", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("same every time")


def pytest_collection_modifyitems(items: list) -> None:
    """Files with many long tests go first, or a worker would be left with one at the end."""
    long = Counter(item.path for item in items if item.get_closest_marker("long"))
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(autouse=True)
def same_seed():
    """Every test starts from the same random numbers, in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_open_figures():
    """Figures that a test has drawn are closed after it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def real_data(monkeypatch):
    """The folder of the real MNIST; where VIT_TUTORIAL_DATA names none, the test is left out."""
    if not REAL_DATA or not Path(REAL_DATA, "MNIST", "raw").is_dir():
        pytest.skip("VIT_TUTORIAL_DATA names no folder with MNIST")
    monkeypatch.setenv("VIT_TUTORIAL_DATA", REAL_DATA)
    return Path(REAL_DATA)
