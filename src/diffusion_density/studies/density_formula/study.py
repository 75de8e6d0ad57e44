"""What the study `density_formula` declares."""

from diffusion_density.studies.declaration import Experiment, Study
from diffusion_density.studies.density_formula import sizes

STUDY = Study(
    letter="B",
    title="A Score-Based Density Formula",
    authors="Li and Yan 2024",
    arxiv=("2408.16765",),
    sizes=sizes.DensityFormulaSizes,
    experiments={
        "exactness": Experiment(sizes.Exactness, outputs=("exactness", "variance")),
        "discretisation": Experiment(sizes.Discretisation, outputs=("discretisation", "slopes")),
        "score_error": Experiment(sizes.ScoreErrors, outputs=("score_error",)),
        "toy": Experiment(sizes.Toy, outputs=("toy",)),
        "classifier": Experiment(sizes.Classifier, outputs=("classifier", "classifier_noise")),
        "gan": Experiment(sizes.GanRun, outputs=("gan", "gan_histogram")),
        "train_planar": Experiment(sizes.Run, outputs=("models",)),
        "train_digits": Experiment(sizes.Run, outputs=("models",)),
        "weightings": Experiment(sizes.MeasuringJob, inputs=("models",), outputs=("weightings",)),
        "digit_estimates": Experiment(sizes.DigitsJob, inputs=("models",), outputs=("digit_estimates",)),
        "digit_classes": Experiment(sizes.DigitsJob, inputs=("models",), outputs=("digit_classes",)),
    },
    figures={
        "exactness": ("exactness", "variance"),
        "discretisation": ("discretisation", "slopes"),
        "score_error": ("score_error",),
        "weightings": ("toy", "weightings"),
        "classifier": ("classifier", "classifier_noise", "digit_classes"),
        "gan": ("gan", "gan_histogram"),
        "digits": ("digit_estimates",),
    },
)
