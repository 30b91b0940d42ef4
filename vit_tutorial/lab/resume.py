"""The state of a training, as it is kept in a file and found again."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vit_tutorial.data import Data
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.files import is_a, reading

FORMAT = "vit_tutorial state 1"


@dataclass(frozen=True)
class State:
    """Everything that an exact resumption needs: progress, settings, and every tensor that changes.

    The tensors are "model.*", "average.*", "optimizer.*", the "epoch.losses" so far, and the states
    of the random generators: "epoch.shuffle" at the start of the epoch, "epoch.generator" and
    "epoch.dropout" now.
    """

    epoch: int  # whole epochs done
    step: int  # steps done in the next one
    seconds: float  # spent on those steps
    settings: dict[str, Any]  # the recipe, and how many images it trains on
    tensors: dict[str, Tensor]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of one part, by the names that they have there."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def check_same(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ValueError that names every setting in which two differ."""
    names = [k for k in {**new, **old} if old.get(k) != new.get(k)]
    differ = [f"{k}: saved {old.get(k)}, asked {new.get(k)}" for k in names]
    if differ:
        raise ValueError(f"{what} cannot be resumed with other settings: {'; '.join(differ)}")


def save_state(path: str | Path, state: State, about: dict[str, Any]) -> None:
    """Write a state, and what `about` says of its run (anything JSON can hold), to one file.

    Atomic, as `checkpoint.write`. Raises OSError where the file cannot be written.
    """
    told = json.dumps([state.epoch, state.step, state.seconds, about, state.settings])
    header = {"format": FORMAT, "state": told}
    checkpoint.write(path, checkpoint.pack(state.tensors, header))


def load_state(path: str | Path) -> tuple[State, dict[str, Any]]:
    """What `save_state` wrote. Raises ValueError for a missing, damaged or foreign file."""
    tensors, header = checkpoint.unpack(Path(path), FORMAT)
    with reading(path):
        told, kinds = json.loads(header["state"]), (int, int, float, dict, dict)
        fit = type(told) is list and len(told) == 5 and all(map(is_a, told, kinds))
        if not fit or min(told[:3]) < 0:
            raise ValueError("it does not say how far the training was")
        epoch, step, seconds, about, settings = told
        return State(epoch, step, seconds, settings, tensors), about


def fingerprint(data: Data) -> str:
    """A SHA-256 of all images and labels; of images left on disk their names and sizes."""
    found = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        if isinstance(split.images, Tensor):
            found.update(split.images.contiguous().numpy().data)
        else:
            files = [f"{p.parent.name}/{p.name} {p.stat().st_size}" for p in split.images.paths]
            found.update(os.fsencode("\n".join(files)))
        for tensor in (split.labels, split.mean, split.std):
            found.update(tensor.numpy().data)
    return found.hexdigest()
