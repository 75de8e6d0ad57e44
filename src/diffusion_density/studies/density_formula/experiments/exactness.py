r"""The density formula (Li and Yan 2024) with exact scores against known densities; the noise of estimators.

*Exactness* (one row per point): random normal distributions and mixtures with full covariances in several dimensions.
The truth is

.. math:: E[\log p_{s_{start}}(x_{s_{start}}) | x_0 = x]
          = \log p(x) + \tfrac12 t_1 \big(d + 2 \Delta\log p + \|\nabla\log p\|^2\big) + O(t_1^2),

which the formula is an integral for (`density.formula`); here t₁ = 10⁻⁶, so that it's log p itself to far less than a
standard error. In one dimension the expectation over the noise is also taken by quadrature, without any.

*Variance* (one row per repeat): n draws of the score for one estimate of log p of a mixture in one dimension, spent by

- ``uniform_time``: eq. 3.1 as the paper states it, times t uniform on (t₁, 1);
- ``log_snr``: the same integral in log-SNR, a draw in the middle of each of n equal intervals;
- ``formula``: the package's, with few nodes, antithetic pairs and the control variate.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.formula import assembled, expectation, formula, squared_errors, time_nodes
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.density_formula.sizes import Exactness
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import one_dimensional_mixture

SCHEDULE = VariancePreserving()
COMPONENTS = {"gaussian": 1, "mixture": 5}
PLACES = (0.0, 1.0, -2.5)  # of the variance comparison


def run(sizes: Exactness, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write both tables.

    Columns of the first: target, dimension, rule (``quadrature``, or ``expectation`` with a standard error of 0),
    point, ``truth_nats``, ``value_nats``, ``stderr_nats``. Of the second: x, method, repeat, ``value_nats``,
    ``truth_nats``.

    Raises:
        InputError: for sizes out of range, or draws that the nodes don't divide.
    """
    if sizes.draws % sizes.nodes:
        raise InputError(f"exactness: {sizes.draws} draws are not a multiple of {sizes.nodes} nodes")
    cases = [(target, dimension) for dimension in sizes.dimensions for target in COMPONENTS]
    tables = [_points(*case, sizes) for case in tqdm(cases, desc="exactness", unit="target")]
    artifacts.write_csv(outputs["exactness"], pd.concat(tables))
    artifacts.write_csv(outputs["variance"], _repeats(sizes))


def _points(target: str, dimension: int, sizes: Exactness) -> pd.DataFrame:
    generator = seeded(10 * dimension, COMPONENTS[target])
    mixture = GaussianMixture.random(dimension, COMPONENTS[target], generator, full=True)
    exact = mixture.diffused(SCHEDULE)
    x = mixture.sample(sizes.points, generator=generator)
    found = formula(exact, x, rule="quadrature", steps=sizes.nodes, throws=sizes.throws, generator=generator)
    assert found.stderr is not None
    values = {"quadrature": (found.value, found.stderr)}
    if dimension == 1:
        exactly = expectation(exact, x, rule="quadrature", steps=sizes.nodes)
        values["expectation"] = (exactly, torch.zeros_like(exactly))
    truth = {"point": range(len(x)), "truth_nats": at_start(exact, x).numpy()}
    tables = [
        pd.DataFrame(
            {"target": target, "dimension": dimension, "rule": rule}
            | truth
            | {"value_nats": value.numpy(), "stderr_nats": stderr.numpy()}
        )
        for rule, (value, stderr) in values.items()
    ]
    return pd.concat(tables)


def _repeats(sizes: Exactness) -> pd.DataFrame:
    exact = one_dimensional_mixture().diffused(SCHEDULE)
    places = torch.tensor(PLACES, dtype=torch.float64)
    x = places.repeat(sizes.repeats)[:, None]
    generator = seeded(1)
    throws = sizes.draws // sizes.nodes
    estimates = {
        "uniform_time": uniform_time(exact, x, sizes.draws, generator),
        "log_snr": log_snr(exact, x, sizes.draws, generator),
        "formula": formula(exact, x, rule="quadrature", steps=sizes.nodes, throws=throws, generator=generator).value,
    }
    repeats = torch.arange(sizes.repeats).repeat_interleave(len(places))
    common = {"x": x[:, 0].numpy(), "repeat": repeats.numpy(), "truth_nats": at_start(exact, x).numpy()}
    tables = [pd.DataFrame(common | {"method": name, "value_nats": value.numpy()}) for name, value in estimates.items()]
    return pd.concat(tables)[["x", "method", "repeat", "value_nats", "truth_nats"]]


def at_start(exact: ExactModel, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """E log p_{s_start} of the noised x in nats, to first order in t₁; for variance-preserving schedules from s = 0."""
    first = exact.schedule.at(exact.schedule.s_start)[1] ** 2
    curvature = x.shape[1] + 2 * exact.score_divergence(x, 0.0) + exact.score(x, 0.0).square().sum(1)
    return exact.log_prob(x, 0.0) + 0.5 * first * curvature


def uniform_time(
    exact: ExactModel, x: Float[Tensor, "b d"], draws: int, generator: torch.Generator
) -> Float[Tensor, " b"]:
    """Equation 3.1 to the letter, as one mean of n independent draws of (t, ε): the estimator to improve on.

    With X_t = √(1 − t) x + √t ε and t uniform on (t₁, 1), t₁ = σ²(s_start), a draw of
    {‖(X_t − √(1 − t) x)/t + ∇log p_t(X_t)‖² / (2 (1 − t)) − d/(2t)} estimates the integral. Its expectation is finite
    at t → 0 and its variance is of the order of 1/t₁: rare draws carry it, and few repeats understate it.

    Args:
        exact: a model on a variance-preserving schedule.
        x: (B, d) clean points.
        draws: n.
        generator: draws times and noise.

    Returns:
        (B,) nats, unbiased for E log p_{s_start}.
    """
    schedule, dimension = exact.schedule, x.shape[1]
    first = schedule.at(schedule.s_start)[1] ** 2
    means = []
    with torch.inference_mode():
        for points in x.split(max(1, ROWS_PER_CALL // draws)):
            clean = points.repeat_interleave(draws, dim=0)
            t = first + (1 - first) * torch.rand(len(clean), 1, generator=generator, dtype=x.dtype)
            centre = (1 - t).sqrt() * clean
            y = centre + t.sqrt() * torch.randn(clean.shape, generator=generator, dtype=x.dtype)
            s = schedule.inverse(torch.log1p(-t) - t.log())[:, 0]
            square = ((y - centre) / t + exact.score(y, s)).square().sum(1, keepdim=True)
            integrand = square / (2 * (1 - t)) - dimension / (2 * t)
            means.append(integrand.reshape(len(points), draws).mean(1))
    return -0.5 * dimension * (1 + math.log(2 * math.pi)) - (1 - first) * torch.cat(means)


def log_snr(exact: ExactModel, x: Float[Tensor, "b d"], draws: int, generator: torch.Generator) -> Float[Tensor, " b"]:
    """The integral in log-SNR with one draw in the middle of each of n equal intervals, and no other help.

    The end marginal is taken for its normal reference N(0, σ²(s_max) I): 10⁻⁵ nats on the schedule of this module.

    Args:
        exact: a model on any schedule.
        x: (B, d) clean points.
        draws: n.
        generator: draws the noise.

    Returns:
        (B,) nats, unbiased for E log p_{s_start} up to the midpoint rule and the end.
    """
    schedule = exact.schedule
    last, first = schedule.log_snr(torch.tensor([schedule.s_max, schedule.s_start], dtype=x.dtype)).tolist()
    width = (first - last) / draws
    middles = last + width * (torch.arange(draws, dtype=x.dtype) + 0.5)
    ends = time_nodes(schedule, "trapezoid", draws)
    nodes = replace(ends, times=schedule.inverse(middles), weights=torch.full_like(middles, 0.5 * width))
    values = []
    with torch.inference_mode():
        for points in x.split(max(1, ROWS_PER_CALL // draws)):
            noise = torch.randn(len(points), draws, x.shape[1], generator=generator, dtype=x.dtype)
            values.append(assembled(exact, points, nodes, squared_errors(exact, points, nodes.times, noise)))
    return torch.cat(values)
