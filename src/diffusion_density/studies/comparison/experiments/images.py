"""All estimators on a trained image network of the study `max_likelihood`: log p of dequantized images in nats.

All estimators get the same points z, one truncated-normal draw for each test image, so that they differ by estimator
only. Those that add the noise of s_start themselves get the images. The reference is the density of the network's flow
in double precision. Its trace is estimated with several probes, since an exact one takes as many as there are
dimensions; the error of the probes is part of every difference.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion_density.density.images.bound import IMAGES_PER_CALL
from diffusion_density.density.images.dequantization import dequantization, to_unit
from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.comparison.experiments.estimators import SEED, score
from diffusion_density.studies.comparison.experiments.variance import compare, long_run
from diffusion_density.studies.comparison.sizes import ImagesJob
from diffusion_density.studies.max_likelihood.models import last, load
from diffusion_density.studies.shared.double import in_double
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded

TOLERANCE = 1e-5  # of the reference, in log p over the number of dimensions
LONG_RUN = 16  # a long run of the path integral has so many times the throws of the variance


def run(sizes: ImagesJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Measure the network of the run's first seed and write both tables.

    Raises:
        InputError: if the networks are of another run.
    """
    images, device, chosen = inputs.images, inputs.device, sizes.images
    _, model = last(load(inputs.files["models"], sizes.run, images, device), sizes.seeds[0])
    generator = seeded(SEED, device=device)
    scheme = dequantization("truncated_normal", images.levels, *model.schedule.at(model.schedule.s_start))
    pictures = images.test[: max(chosen.images, chosen.varied)].to(device)
    z = scheme.draw(pictures, 1, generator=generator, dtype=torch.float32).z[:, 0]
    labels: dict[str, object] = {"target": images.name, "dimension": z[0].numel()}
    x = z[: chosen.images]
    limit = partial(reference, model, probes=chosen.probes)
    clean = to_unit(pictures[: chosen.images], images.levels, torch.float32)
    table = score(model, x, limit(x), limit, chosen.budgets, labels, IMAGES_PER_CALL, clean)
    artifacts.write_csv(outputs["estimators"], table)
    x = z[: chosen.varied]
    tended = long_run(model, x, LONG_RUN * chosen.throws, IMAGES_PER_CALL)
    rows = compare(model, x, tended, chosen.throws, chosen.repeats, labels | {"index": 0}, chunk=IMAGES_PER_CALL)
    artifacts.write_csv(outputs["variance"], rows)


def reference(model: DiffusionModel, x: Tensor, probes: int) -> Tensor:
    """(B,) log p of the flow in nats, in double precision."""
    return flow(
        in_double(model),
        x.double(),
        rtol=TOLERANCE,
        atol=TOLERANCE,
        divergence="hutchinson",
        probes=probes,
        generator=seeded(SEED - 1, device=x.device),
        per_dimension=True,
    ).value
