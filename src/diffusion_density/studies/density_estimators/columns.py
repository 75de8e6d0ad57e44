"""The columns of this study's tables."""

from diffusion_density.studies.shared.columns import SHARED, declare

COLUMNS = SHARED | declare(
    settings="experiment epochs training_evaluations prediction weighting skip mixture side mode points field setting",
    measured="untrained_kl_nats failed_points flow_nats",
    errors={
        "path_integral_nats": "path_integral_stderr_nats",
        "rms_error_nats": "rms_error_stderr_nats",
    },
)
