"""An untrained image network of paper D, saved as its training saves one."""

from pathlib import Path

import torch

from diffusion_density.data.images import ImageSet
from diffusion_density.networks.sizes import SmallUNetSize
from diffusion_density.studies.max_likelihood import models
from diffusion_density.studies.max_likelihood.runs import Arm, Optimiser, Run


def save_untrained(images: ImageSet, path: Path) -> Run:
    """Write the smallest network of a set of images, and return the run that it is of."""
    run = Run(
        dataset=images.name,
        arm=Arm(prediction="velocity", path="vp", times="importance"),
        seeds=(0,),
        network=SmallUNetSize(kind="small", widths=(8, 8), contrasts=4, time_width=8),
        optimiser=Optimiser(batch_size=4, learning_rate=1e-3, warmup=0, cosine=False, ema=0.5),
        snapshots=(1,),
    )
    models.save(path, run, images, {(0, 1): models.build(run, images, 0).state_dict()}, {0: torch.zeros(1)})
    return run
