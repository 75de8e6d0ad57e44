"""The path integral with reduced variance against the plain one, at equal network evaluations.

One row is a point, method and number of throws. Its numbers are over independent runs: the mean square error, the mean
square of the reported standard errors, and how many 95 % intervals contained the truth. Where the truth is not known,
a long run of the reduced method takes its place. `findings` computes variance ratios from the table.

Half of the mixtures are of the family of Premkumar 2024; the other half have a quarter of its standard deviations.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from scipy.special import stdtrit
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.path_integral.plain import Method, path_integral
from diffusion_density.density.path_integral.quasi_random import POINT_SETS
from diffusion_density.machine import artifacts
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.comparison.sizes import Variance
from diffusion_density.studies.shared.seeds import seeded

SCHEDULE = VariancePreserving(beta_min=0.1, beta_max=16.0)  # as in the code of Premkumar 2024
SEED = 21
METHODS: tuple[Method, ...] = ("plain", "reduced")
CUTOFF = 1e-5


def compare(
    model: Model,
    x: Tensor,
    truth: Tensor,
    throws: int,
    repeats: int,
    labels: dict[str, object],
    seed: int = 0,
    chunk: int = ROWS_PER_CALL,
) -> pd.DataFrame:
    """Rows for every point and both methods.

    Args:
        model: the score.
        x: (B, *) points.
        truth: (B,) what both methods estimate, in nats.
        throws: of each run.
        repeats: runs.
        labels: columns that name the target.
        seed: of the throws, one for each target.
        chunk: the largest number of rows of one network call.
    """
    tables = []
    for method in METHODS:
        generator = seeded(SEED, seed, device=x.device)
        runs = [
            path_integral(model, x, throws=throws, method=method, generator=generator, cutoff=CUTOFF, chunk=chunk)
            for _ in range(repeats)
        ]
        errors = torch.stack([run.value for run in runs]) - truth
        claimed = torch.stack([run.stderr for run in runs if run.stderr is not None])
        freedom = throws - 1 if method == "plain" else POINT_SETS - 1
        columns = {
            "method": method,
            "throws": throws,
            "point": range(len(x)),
            "repeats": repeats,
            "square_error_nats2": errors.square().mean(0).cpu().numpy(),
            "claimed_square_nats2": claimed.square().mean(0).cpu().numpy(),
            "mean_error_nats": errors.mean(0).cpu().numpy(),
            "covered": (errors.abs() <= float(stdtrit(freedom, 0.975)) * claimed).sum(0).cpu().numpy(),
        }
        tables.append(pd.DataFrame(labels | columns))
    return pd.concat(tables)


def long_run(model: Model, x: Tensor, throws: int, chunk: int = ROWS_PER_CALL) -> Tensor:
    """(B,) the limit of the path integral in nats, by the reduced method with many throws."""
    generator = seeded(SEED - 1, device=x.device)
    return path_integral(
        model, x, throws=throws, method="reduced", generator=generator, cutoff=CUTOFF, chunk=chunk
    ).value


def run(sizes: Variance, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table of the mixtures."""
    cases = [(3, index, throws) for index in range(sizes.mixtures) for throws in sizes.throws]
    cases += [(sizes.dimension, index, sizes.throws[0]) for index in range(math.ceil(sizes.mixtures / 2))]
    tables = []
    for seed, (dimension, index, throws) in enumerate(tqdm(cases, desc="variance", unit="case")):
        mixture = GaussianMixture.random(dimension, 5, seeded(index))
        sharp = dimension == 3 and index % 2 == 1
        if sharp:
            mixture = GaussianMixture(mixture.weights, mixture.means, mixture.covariances / 16)
        x = mixture.sample(sizes.points, generator=seeded(SEED))
        labels: dict[str, object] = {
            "target": "sharp mixture" if sharp else "mixture",
            "dimension": dimension,
            "index": index,
        }
        tables.append(compare(mixture.diffused(SCHEDULE), x, mixture.log_prob(x), throws, sizes.repeats, labels, seed))
    artifacts.write_csv(outputs["variance"], pd.concat(tables))
