"""The columns of this study's tables."""

from diffusion_density.studies.shared.columns import SHARED, declare

COLUMNS = SHARED | declare(
    settings="group parameter threshold quantile size estimate stochasticity log_snr place",
    measured="png_bytes mode mode_without_h mode_on_grid predicted_nats rms_error_nats target_nats tracked_nats "
    "out_of_reach",
    errors={
        "mean_excess_nats": "mean_stderr_nats",
        "deviation_nats": "deviation_stderr_nats",
        "excess_nats": "excess_stderr_nats",
        "mean_nats": "stderr_nats",
    },
)
