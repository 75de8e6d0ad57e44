"""Samples of the flow: images, what they cost, and their sliced Wasserstein distance to test images.

The distance between as many training images and the test images is the floor: what a perfect model would get.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffusion_density.density.images.dequantization import to_images, to_unit
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import NumericalError
from diffusion_density.sampling.flow_sampler import sample_flow
from diffusion_density.sampling.quality import sliced_wasserstein
from diffusion_density.studies.max_likelihood.models import columns, last, load
from diffusion_density.studies.max_likelihood.runs import SamplesJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded

_SEED = 20230508
CHUNK = 64


def run(sizes: SamplesJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Draw samples of the first seed's network; write them with test images, and a table of cost and distance.

    Raises:
        InputError: if the networks are of another run.
        NumericalError: if a sample failed.
    """
    images, settings, device, seed = inputs.images, sizes.samples, inputs.device, sizes.seeds[0]
    (_, step), model = last(load(inputs.files["models"], sizes.run, images, device), seed)
    generator = seeded(_SEED, device=device)
    tolerance = settings.tolerance
    drawn = sample_flow(
        model, settings.number, images.shape, rtol=tolerance, atol=tolerance, generator=generator, chunk=CHUNK
    )
    if bool(drawn.status.any()):
        raise NumericalError(f"{sizes.name}: {int((drawn.status > 0).sum())} of {settings.number} samples failed")
    alpha, _ = model.schedule.at(model.schedule.s_start)
    samples = to_images(drawn.x.cpu() / alpha, images.levels)
    chosen = torch.randperm(len(images.train), generator=seeded(_SEED))[: settings.number]
    sets = {"samples": samples, "training images": images.train[chosen]}
    rows = [
        {
            "dataset": images.name,
            **columns(sizes.name, sizes.run, seed, step),
            "images": which,
            "number": len(of),
            "level": level,
        }
        | {"sliced_wasserstein": distance}
        | {"network_evaluations": drawn.calls / -(-settings.number // CHUNK) if of is samples else None}
        | {"tolerance": settings.tolerance if of is samples else None}
        for which, of in sets.items()
        for level, distance in distances(images.test, of, images.levels).items()
    ]
    pictures = {"samples": samples, "test": images.test[: settings.number]}
    artifacts.write_safetensors(outputs["samples"], pictures, {"levels": images.levels})
    artifacts.write_csv(outputs["table"], pd.DataFrame(rows))


def distances(reference: Tensor, images: Tensor, levels: int) -> dict[int, float]:
    """The sliced Wasserstein distance to as many reference images, by side of the pyramid's level."""
    count = min(len(reference), len(images))
    generator = seeded(_SEED)
    return sliced_wasserstein(to_unit(reference[:count], levels), to_unit(images[:count], levels), generator=generator)
