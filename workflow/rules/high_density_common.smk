HIGH_SIZES = SCALE.high_density
HIGH_MODULE = "diffusion_density.studies.high_density.experiments"
# Jobs that start from nothing, with the tables that they write, in order.
HIGH_EXPERIMENTS = {
    "tracking": ["tracking"],
    "bias": ["bias", "sandwich"],
    "modes": ["modes", "mode_densities"],
    "guidance": ["guidance"],
    "cost": ["cost"],
}
# Networks of paper D whose images are examined: digits, and one for each set of larger images.
HIGH_RUNS = [ML.reference, *(run for run in ML_RUNS if run.startswith("main-"))]
# Each figure with the tables that it reads, as in diffusion_density.studies.high_density.figures.
HIGH_FIGURES = {
    "tracking": ["tracking"],
    "bias": ["bias", "sandwich"],
    "modes": ["modes", "mode_densities"],
    "guidance": ["guidance"],
    "cost": ["cost"],
    "images": ["images", "image_findings"],
    "pictures": ["images"],
}
