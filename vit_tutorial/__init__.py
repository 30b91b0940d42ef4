"""The Vision Transformer, built piece by piece in the book of the same name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vit_tutorial.model import VisionTransformer, ViTConfig, variant

if TYPE_CHECKING:
    from vit_tutorial.weights.checkpoint import load_pretrained
    from vit_tutorial.weights.hub import from_checkpoint

__all__ = ["ViTConfig", "VisionTransformer", "from_checkpoint", "load_pretrained", "variant"]
LATER = {  # imported when asked for: reading files and images needs more than the model does
    "from_checkpoint": "vit_tutorial.weights.hub",
    "load_pretrained": "vit_tutorial.weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    """The names in LATER (PEP 562)."""
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(LATER[name]), name)
