COMPARISON = SCALE.comparison
COMPARISON_MODULE = "diffusion_density.studies.comparison.experiments"
# Jobs that start from nothing, with the tables that they write, in order.
COMPARISON_EXPERIMENTS = {
    "estimators": ["estimators/mixtures"],
    "variance": ["variance/mixtures"],
    "conditional": [
        "conditional",
        "conditional_log_probs",
        "conditional_ranks",
        "conditional_calibration",
        "conditional_classes",
    ],
}
COMPARISON_JOBS = COMPARISON.jobs(CONFIG.seeds)
# Networks of paper D: those of digits, and on GPUs those of larger images too.
COMPARISON_RUNS = HIGH_RUNS if CONFIG.scale == "paper" else [ML.reference]
# Parts of the tables: mixtures, a network of paper A, and networks of paper D.
COMPARISON_PARTS = ["mixtures", "trained", *COMPARISON_RUNS]
# Each figure with the tables that it reads, as in diffusion_density.studies.comparison.figures.
COMPARISON_FIGURES = {
    "accuracy": ["estimators"],
    "bias": ["decision"],
    "variance": ["findings"],
    "conditional": ["conditional"],
    "conditional_calibration": ["conditional_ranks"],
    "conditional_classes": ["conditional_classes"],
}
