"""Estimators and variances on a trained image network of paper D: nats of the dequantized images.

All estimators see the same points z, one truncated-normal draw for each test image, so that differences between them
are differences of estimators; those that add the noise of s_start themselves see the images. The reference is the
network's flow in double precision, with a trace by several probes: an exact one takes as many as there are dimensions.
Their error is part of every difference.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.bound import IMAGES_PER_CALL
from diffusion_density.density.images.dequantization import dequantization, to_unit
from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.comparison.experiments.estimators import SEED, score
from diffusion_density.studies.comparison.experiments.variance import compare, long_run
from diffusion_density.studies.comparison.sizes import Pictures
from diffusion_density.studies.max_likelihood.models import last, load
from diffusion_density.studies.max_likelihood.runs import Run
from diffusion_density.studies.shared.double import in_double

TOLERANCE = 1e-5  # of the reference, in log p over the number of dimensions
LONG = 16  # times the throws of the variance, for what the path integral tends to


def measure(
    run: Run, sizes: Pictures, images: ImageSet, models: Path, estimators: Path, variance: Path, *, device: str
) -> None:
    """Measure the network of the run's first seed and write both tables.

    Raises:
        InputError: if the networks are of another run.
    """
    _, model = last(load(models, run, images, device), run.seeds[0])
    generator = torch.Generator(device).manual_seed(SEED)
    scheme = dequantization("truncated_normal", images.levels, *model.schedule.at(model.schedule.s_start))
    pictures = images.test[: max(sizes.images, sizes.varied)].to(device)
    z = scheme.draw(pictures, 1, generator=generator, dtype=torch.float32).z[:, 0]
    labels: dict[str, object] = {"target": images.name, "dimension": z[0].numel()}
    x = z[: sizes.images]
    limit = partial(reference, model, probes=sizes.probes)
    clean = to_unit(pictures[: sizes.images], images.levels, torch.float32)
    table = score(model, x, limit(x), limit, sizes.budgets, labels, IMAGES_PER_CALL, clean)
    artifacts.write_csv(estimators, table)
    x = z[: sizes.varied]
    tended = long_run(model, x, LONG * sizes.throws, IMAGES_PER_CALL)
    rows = compare(model, x, tended, sizes.throws, sizes.repeats, labels | {"index": 0}, chunk=IMAGES_PER_CALL)
    artifacts.write_csv(variance, rows)


def reference(model: DiffusionModel, x: Tensor, probes: int) -> Tensor:
    """(B,) log p of the flow in nats, in double precision."""
    return flow(
        in_double(model),
        x.double(),
        rtol=TOLERANCE,
        atol=TOLERANCE,
        divergence="hutchinson",
        probes=probes,
        generator=torch.Generator(x.device).manual_seed(SEED - 1),
        per_dimension=True,
    ).value
