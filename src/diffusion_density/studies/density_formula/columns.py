"""The columns of this study's tables."""

from diffusion_density.studies.shared.columns import SHARED, declare

COLUMNS = SHARED | declare(
    settings="weights weighting measure unit noise rule schedule quantity per_log_squared size m weight "
    "bin_left bin_right",
    repeats="repeat x",
    measured="calibration_error agreement posterior_error max_posterior_error mean_gap_nats max_error_nats "
    "predicted_quadratic_nats predicted_sharp_nats truncation_nats truth_nats log_prob_data_nats "
    "log_prob_sde_nats formula_nats gap_nats predicted_gap_nats objective_nats distance_data "
    "distance_optimum distance_floor optimum_mean_log_prob_nats optimum_atom mass_core optimum_mass_core "
    "generated data optimum",
    errors={
        "accuracy": "accuracy_stderr",
        "cross_entropy_nats": "cross_entropy_stderr_nats",
        "slope": "slope_stderr",
        "loss": "loss_stderr",
        "excess": "excess_stderr",
        "kl": "kl_stderr",
        "mean_log_prob_nats": "mean_log_prob_stderr_nats",
    },
)
