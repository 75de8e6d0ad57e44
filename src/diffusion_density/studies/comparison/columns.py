"""The columns of this study's tables."""

from diffusion_density.studies.shared.columns import SHARED, declare

COLUMNS = SHARED | declare(
    settings="problem noise setting pairs draws repeats",
    repeats="pair coordinate repeat",
    measured="reference_nats square_error_nats2 claimed_square_nats2 covered max_evaluations estimate_nats "
    "posterior_error cross_entropy_nats bayes_cross_entropy_nats rank deviation p_value",
    errors={
        "evaluations": "evaluations_ci_low evaluations_ci_high",
        "rms_error_nats": "rms_error_ci_low rms_error_ci_high",
    },
)
