"""The columns of this study's tables."""

from diffusion_density.studies.shared.columns import SHARED, declare

COLUMNS = SHARED | declare(
    settings="present to_have_it variant train_images test_images channels side levels origin terms sha256 coder "
    "prediction path times stratified trace_weight batch_size training_images images number level "
    "tolerance gamma dequantization late_start draws width_levels against unit over",
    repeats="batch",
    measured="status pairs sliced_wasserstein gap_bits_per_dim loss_nats gradient_norm2 gradient_next",
    errors={
        "miss_per_dim": "stderr",
    },
)
