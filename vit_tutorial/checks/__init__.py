"""Self-checks for the exercises: they test values, and say which mistake the values point to."""

from vit_tutorial.checks.attention import check_attention_weights, check_multi_head
from vit_tutorial.checks.attention_maps import check_attention_rollout
from vit_tutorial.checks.class_token import check_tokens
from vit_tutorial.checks.core import CheckFailed, Mistakes, agree, check
from vit_tutorial.checks.encoder import check_block
from vit_tutorial.checks.head import check_cross_entropy, check_forward, check_masked_logits
from vit_tutorial.checks.patches import check_patchify
from vit_tutorial.checks.positions import check_sincos
from vit_tutorial.checks.projection import check_projection
from vit_tutorial.checks.training import check_schedule

__all__ = [
    "CheckFailed",
    "Mistakes",
    "agree",
    "check",
    "check_attention_rollout",
    "check_attention_weights",
    "check_block",
    "check_cross_entropy",
    "check_forward",
    "check_masked_logits",
    "check_multi_head",
    "check_patchify",
    "check_projection",
    "check_schedule",
    "check_sincos",
    "check_tokens",
]
