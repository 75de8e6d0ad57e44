"""What the study `density_estimators` declares."""

from diffusion_density.studies.declaration import Experiment, Study
from diffusion_density.studies.density_estimators.sizes import (
    AgreementJob,
    Dataset,
    DensityEstimatorsSizes,
    EvaluationJob,
    TimingJob,
    TrainingRun,
)

NETWORKS = ("dataset", "models")

STUDY = Study(
    letter="A",
    title="Diffusion Density Estimators",
    authors="Premkumar 2024",
    arxiv=("2410.06986",),
    sizes=DensityEstimatorsSizes,
    experiments={
        "dataset": Experiment(Dataset, outputs=("dataset",)),
        "train": Experiment(TrainingRun, inputs=("dataset",), outputs=("models",)),
        "evaluate": Experiment(EvaluationJob, inputs=NETWORKS, outputs=("table",)),
        "timing": Experiment(TimingJob, inputs=NETWORKS, outputs=("timing", "tradeoff")),
        "agreement": Experiment(AgreementJob, inputs=NETWORKS, outputs=("agreement", "identity")),
    },
    figures={
        "kl_throws": ("throws",),
        "kl_sweeps": ("throws", "samples", "dimensions"),
        "entropy_score": ("throws", "objectives"),
        "compute_grid": ("throws",),
        "timing": ("timing", "tradeoff"),
        "agreement": ("agreement", "identity"),
    },
)
