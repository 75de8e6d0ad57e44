"""What the study `max_likelihood` declares."""

from diffusion_density.studies.declaration import Experiment, Study
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.max_likelihood import runs
from diffusion_density.studies.max_likelihood.sizes import MaxLikelihoodSizes

STUDY = Study(
    letter="D",
    title="Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs",
    authors="Zheng, Lu, Chen and Zhu 2023",
    arxiv=("2305.03935",),
    sizes=MaxLikelihoodSizes,
    experiments={
        "dataset": Experiment(runs.DatasetJob, outputs=("description",), on_images=True),
        "datasets": Experiment(runs.DatasetsJob, inputs=None, outputs=("datasets",)),
        "lossless": Experiment(runs.LosslessJob, outputs=("table",), on_images=True),
        "train": Experiment(runs.TrainingJob, inputs=None, outputs=("models",), on_images=True),
        "curves": Experiment(runs.CurvesJob, inputs=None, outputs=("table",), on_images=True),
        "variance": Experiment(runs.VarianceJob, inputs=None, outputs=("variance",), on_images=True),
        "trace": Experiment(runs.TraceJob, inputs=None, outputs=("trace",), on_images=True),
        "likelihood": Experiment(runs.LikelihoodJob, inputs=("models",), outputs=("table",), on_images=True),
        "samples": Experiment(runs.SamplesJob, inputs=("models",), outputs=("table", "samples"), on_images=True),
        "gaps": Experiment(Strict, outputs=("gaps",)),
        "findings": Experiment(
            runs.FindingsJob, inputs=("curves", "likelihood", "variance", "coders"), outputs=("findings",)
        ),
    },
    figures={
        "bits_per_dim": ("findings", "coders"),
        "convergence": ("curves", "findings"),
        "predictions": ("curves",),
        "noise": ("findings",),
        "dequantization": ("gaps", "findings"),
        "finetuning": ("findings", "trace"),
        "samples": ("samples",),
    },
)
