"""The Vision Transformer, built piece by piece in the book of the same name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit_tutorial.model import VisionTransformer, ViTConfig, variant
    from vit_tutorial.weights.checkpoint import load_pretrained
    from vit_tutorial.weights.hub import from_checkpoint

__all__ = ["ViTConfig", "VisionTransformer", "from_checkpoint", "load_pretrained", "variant"]
LATER = {  # imported when asked for: torch takes seconds, in which Ctrl-C is to be answered
    "ViTConfig": "vit_tutorial.model",
    "VisionTransformer": "vit_tutorial.model",
    "variant": "vit_tutorial.model",
    "from_checkpoint": "vit_tutorial.weights.hub",
    "load_pretrained": "vit_tutorial.weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    """The names in LATER (PEP 562)."""
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name)
