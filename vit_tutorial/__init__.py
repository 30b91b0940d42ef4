"""The Vision Transformer, built piece by piece in the book of the same name."""

from vit_tutorial.checkpoint import load_pretrained
from vit_tutorial.model import VisionTransformer, ViTConfig, variant

__all__ = ["ViTConfig", "VisionTransformer", "load_pretrained", "variant"]
