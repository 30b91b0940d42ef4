"""Self-checks for the exercises: they test values, and say which mistake the values point to."""

from vit_tutorial.checks.attention import (
    check_attention,
    check_attention_weights,
    check_causal,
    check_gradient,
    check_multi_head,
)
from vit_tutorial.checks.attention_maps import (
    check_attention_rollout,
    check_class_token_maps,
    check_disagreement,
    check_occlusion_map,
    check_reader_map,
)
from vit_tutorial.checks.class_token import (
    check_patch_mean,
    check_reached,
    check_registers,
    check_tokens,
)
from vit_tutorial.checks.core import CheckFailed, Mistakes, agree, check
from vit_tutorial.checks.diagnose import Finding, diagnose
from vit_tutorial.checks.empty_file import (
    check_attention_class,
    check_block_class,
    check_embedding_class,
    check_vit_class,
)
from vit_tutorial.checks.encoder import check_block, check_lens, check_merge, check_walk_without
from vit_tutorial.checks.find_the_bug import check_alone
from vit_tutorial.checks.head import (
    check_cross_entropy,
    check_forward,
    check_growth,
    check_masked_logits,
)
from vit_tutorial.checks.more_data import (
    check_cnn_flops,
    check_conv_matrix,
    check_needed,
    check_part,
)
from vit_tutorial.checks.patches import (
    check_channels_last,
    check_overlapping,
    check_patchify,
    check_sizes,
    check_unpatchify,
)
from vit_tutorial.checks.positions import (
    check_dot,
    check_relative,
    check_resample_positions,
    check_sincos,
    check_two_tables,
)
from vit_tutorial.checks.progress import progress
from vit_tutorial.checks.projection import (
    check_fold,
    check_parameters,
    check_projection,
    check_weight_from_authors,
)
from vit_tutorial.checks.recipe import check_average, check_gap, check_orthogonal
from vit_tutorial.checks.scale import (
    check_accumulated,
    check_batch,
    check_flops,
    check_interrupted,
    check_shortcut,
    check_twice_the_tokens,
)
from vit_tutorial.checks.state import passed
from vit_tutorial.checks.training import (
    check_accuracy,
    check_bold_recipe,
    check_parameter_groups,
    check_schedule,
    check_train_step,
    check_training_loop,
)
from vit_tutorial.checks.transfer import (
    check_control,
    check_least_squares,
    check_nearest,
    check_qkv,
)
from vit_tutorial.checks.what_it_learned import (
    check_entropy,
    check_patch_lens,
    check_same_row,
)

__all__ = [
    "CheckFailed",
    "Finding",
    "Mistakes",
    "agree",
    "check",
    "check_accumulated",
    "check_accuracy",
    "check_alone",
    "check_attention",
    "check_attention_class",
    "check_attention_rollout",
    "check_attention_weights",
    "check_average",
    "check_batch",
    "check_block",
    "check_block_class",
    "check_bold_recipe",
    "check_causal",
    "check_channels_last",
    "check_class_token_maps",
    "check_cnn_flops",
    "check_control",
    "check_conv_matrix",
    "check_cross_entropy",
    "check_disagreement",
    "check_dot",
    "check_embedding_class",
    "check_entropy",
    "check_flops",
    "check_fold",
    "check_forward",
    "check_gap",
    "check_gradient",
    "check_growth",
    "check_interrupted",
    "check_least_squares",
    "check_lens",
    "check_masked_logits",
    "check_merge",
    "check_multi_head",
    "check_nearest",
    "check_needed",
    "check_occlusion_map",
    "check_orthogonal",
    "check_overlapping",
    "check_parameter_groups",
    "check_parameters",
    "check_part",
    "check_patch_lens",
    "check_patch_mean",
    "check_patchify",
    "check_projection",
    "check_qkv",
    "check_reached",
    "check_reader_map",
    "check_registers",
    "check_relative",
    "check_resample_positions",
    "check_same_row",
    "check_schedule",
    "check_shortcut",
    "check_sincos",
    "check_sizes",
    "check_tokens",
    "check_train_step",
    "check_training_loop",
    "check_twice_the_tokens",
    "check_two_tables",
    "check_unpatchify",
    "check_vit_class",
    "check_walk_without",
    "check_weight_from_authors",
    "diagnose",
    "passed",
    "progress",
]
