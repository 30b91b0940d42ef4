"""A trained model where there is no PyTorch: a script for the live page, and ONNX."""

import base64
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from vit_tutorial.data import load
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.weights import checkpoint
from vit_tutorial.weights.hub import find, from_checkpoint
from vit_tutorial.weights.preprocessing import Preprocessing

TOP = 46  # levels -46..46 are 93: as many as there are printable characters without " and \
GOLDENS = 4  # images


def to_levels(
    weight: Float[Tensor, "... cols"],
) -> tuple[Int8[Tensor, "rows cols"], Float[Tensor, "rows 1"]]:
    """Every row as whole numbers in -46..46 times one scale: int8 by row (a vector is one)."""
    rows = weight.detach().reshape(-1, weight.shape[-1])
    scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / TOP
    return (rows / scales).round().to(torch.int8), scales


def rounded(model: VisionTransformer) -> VisionTransformer:
    """A copy that holds what the page's int8 weights stand for."""
    made = copy.deepcopy(model)
    for weight in made.state_dict().values():
        levels, scales = to_levels(weight)
        weight.copy_((levels * scales).view_as(weight))
    return made


def page_script(model: VisionTransformer, preparation: Preprocessing, source: str) -> str:
    """The weights as a classic script, which a page can also load from a disk.

    A level is one character, the scale of a row a float32. `source` is the SHA-256 of the
    checkpoint, to tell a stale script from a fresh one.
    """
    check_page(model.config)
    tensors, text, scales = [], bytearray(), bytearray()
    for name, weight in model.state_dict().items():
        levels, scale = to_levels(weight)
        tensors.append((name, *levels.shape))
        text += as_text(levels)
        scales += scale.numpy().astype("<f4").tobytes()
    c = model.config
    names = ("image_size", "patch_size", "layers", "hidden_size", "mlp_size", "heads", "classes")
    file = {
        "source": source, "config": {name: getattr(c, name) for name in names},
        "mean": preparation.mean[0], "std": preparation.std[0], "tensors": tensors,
        "scales": base64.b64encode(scales).decode(), "levels": text.decode(),
    }  # fmt: skip
    script = json.dumps(file, separators=(",", ":"))
    return f"// made by: vit-tutorial export --page DIR\nglobalThis.VIT_WEIGHTS={script};\n"


def as_text(levels: Int8[Tensor, "rows cols"]) -> bytes:
    """One printable character a level, in order, without the two that JSON would escape."""
    codes = levels.to(torch.int16) + TOP + ord(" ")
    codes += codes >= ord('"')
    codes += codes >= ord("\\")
    return codes.to(torch.uint8).numpy().tobytes()


def check_page(c: ViTConfig) -> None:
    """Raise ValueError for a model that the page's small engine cannot run."""
    fits = {
        "one channel": c.channels == 1,
        "square images": len(set(c.height_width)) == 1,
        "a class token": c.pool == "token",
        "learned positions": c.positions == "learned",
        "a linear head": c.representation_size is None and c.classes > 0,
        "exact GELU": c.gelu == "exact",
        "epsilon 1e-6": c.epsilon == 1e-6,
    }
    if missing := [name for name, fit in fits.items() if not fit]:
        raise ValueError(f"the page's engine cannot run this model: it needs {missing[0]}")


@torch.no_grad()
def goldens(model: VisionTransformer, preparation: Preprocessing, source: str) -> dict[str, Any]:
    """What PyTorch computes for a few of scikit-learn's digits: for tests without PyTorch."""
    images = load("digits").test.images[:GOLDENS]
    ready = preparation.normalise(images.float() / 255)
    return {
        "source": source,
        "images": [base64.b64encode(image.numpy().tobytes()).decode() for image in images],
        "logits": model(ready).tolist(),
        "class_token": model.attention_maps(ready)[..., 0, :].tolist(),  # reads: (L h T)
    }


def export_page(weights: str, folder: Path, int8: Path | None, command: str) -> list[Path]:
    """Write the page's weights and goldens, and the rounded model as a checkpoint with a card."""
    model, preparation = from_checkpoint(weights)
    path = find(weights)
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    script = page_script(model, preparation, source)  # refuses before anything is written
    small = rounded(model)
    made = {
        folder / "vit-weights.js": script.encode(),
        folder / "goldens.json": json.dumps(goldens(small, preparation, source)).encode(),
    }
    for name, content in made.items():
        checkpoint.write(name, content)
    if int8 is not None:
        more = checkpoint.load(path)[1]
        checkpoint.save(int8, small, **more)
        card = {
            "command": command, "source": path.stem, "source_sha256": source,
            "seed": more.get("seed", 0), "config": {**vars(model.config)},
            "parameters": sum(p.numel() for p in small.parameters()), "levels": 2 * TOP + 1,
            "sha256": hashlib.sha256(int8.read_bytes()).hexdigest(),
        }  # fmt: skip
        checkpoint.write(int8.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
        made |= {int8: b"", int8.with_suffix(".json"): b""}
    return [*made]


def export_onnx(model: VisionTransformer, path: Path) -> None:
    """Write an ONNX file that takes batches of any size of normalised images.

    Its input is "images" (B C H W), its output "logits" (B K). Raises ValueError where the package
    onnxscript, which PyTorch needs for it, is missing.
    """
    c = model.config
    images = torch.zeros(2, c.channels, *c.height_width)
    try:
        program: Any = torch.onnx.export(
            model, (images,), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("B", min=1)},),
            input_names=["images"], output_names=["logits"],
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs one more package: pip install {error.name}") from error
    checkpoint.write(path, program.model_proto.SerializeToString())
