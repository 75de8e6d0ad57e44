"""What the study `high_density` declares."""

from diffusion_density.studies.declaration import Experiment, Study
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.high_density import sizes

STUDY = Study(
    letter="C",
    title="Diffusion Models as Cartoonists, and Density Guidance",
    authors="Karczewski, Heinonen and Garg 2025",
    arxiv=("2411.01293", "2502.05807"),
    sizes=sizes.HighDensitySizes,
    needs=("max_likelihood",),
    experiments={
        "tracking": Experiment(sizes.Tracking, outputs=("tracking",)),
        "bias": Experiment(sizes.Bias, outputs=("bias", "sandwich")),
        "modes": Experiment(sizes.Modes, outputs=("modes", "mode_densities")),
        "guidance": Experiment(sizes.Guidance, outputs=("guidance",)),
        "cost": Experiment(sizes.Cost, outputs=("cost",)),
        "images": Experiment(sizes.ImagesJob, inputs=("models",), outputs=("table", "samples"), on_images=True),
        "findings": Experiment(Strict, inputs=("images",), outputs=("image_findings",)),
    },
    figures={
        "tracking": ("tracking",),
        "bias": ("bias", "sandwich"),
        "modes": ("modes", "mode_densities"),
        "guidance": ("guidance",),
        "cost": ("cost",),
        "images": ("images", "image_findings"),
        "pictures": ("images",),
    },
)
