FORMULA_SIZES = SCALE.density_formula
FORMULA_RUNS = FORMULA_SIZES.runs(CONFIG.seeds)
FORMULA_JOBS = FORMULA_SIZES.jobs(CONFIG.seeds)
FORMULA_MODULE = "diffusion_density.studies.density_formula.experiments"
# Jobs that start from nothing, with the tables that they write, in order.
FORMULA_EXPERIMENTS = {
    "exactness": ["exactness", "variance"],
    "discretisation": ["discretisation", "slopes"],
    "score_error": ["score_error"],
    "toy": ["toy"],
    "classifier": ["classifier", "classifier_noise"],
    "gan": ["gan", "gan_histogram"],
}
# Jobs that measure trained networks, each a table, with the run of these networks.
FORMULA_MEASURED = {
    "weightings": "planar",
    "digit_estimates": "digits",
    "digit_classes": "digits",
}
# Each figure with the tables that it reads, as in diffusion_density.studies.density_formula.figures.
FORMULA_FIGURES = {
    "exactness": ["exactness", "variance"],
    "discretisation": ["discretisation", "slopes"],
    "score_error": ["score_error"],
    "weightings": ["toy", "weightings"],
    "classifier": ["classifier", "classifier_noise", "digit_classes"],
    "gan": ["gan", "gan_histogram"],
    "digits": ["digit_estimates"],
}
