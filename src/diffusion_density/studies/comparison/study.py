"""What the study `comparison` declares."""

from diffusion_density.studies.comparison import sizes
from diffusion_density.studies.declaration import Experiment, Study
from diffusion_density.studies.fields import Strict

PARTS = ("estimators", "variance")

STUDY = Study(
    letter="E",
    title="All estimators compared",
    sizes=sizes.ComparisonSizes,
    needs=("density_estimators", "max_likelihood", "high_density"),
    experiments={
        "estimators": Experiment(sizes.Estimators, outputs=("estimators",)),
        "variance": Experiment(sizes.Variance, outputs=("variance",)),
        "conditional": Experiment(sizes.ConditionalRun, outputs=sizes.CONDITIONAL_TABLES),
        "trained": Experiment(sizes.TrainedJob, inputs=("dataset", "models"), outputs=PARTS),
        "images": Experiment(sizes.ImagesJob, inputs=("models",), outputs=PARTS, on_images=True),
        "findings": Experiment(Strict, inputs=None, outputs=("findings", "decision")),
    },
    figures={
        "accuracy": ("estimators",),
        "bias": ("decision",),
        "variance": ("findings",),
        "conditional": ("conditional",),
        "conditional_calibration": ("conditional_ranks",),
        "conditional_classes": ("conditional_classes",),
    },
)
