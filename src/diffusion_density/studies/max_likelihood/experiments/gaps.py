r"""What dequantization alone costs: the bound of a perfect density, in closed form.

A one-pixel image whose levels have the probabilities P(k), noised at the data end, has the density

.. math:: p(z) = \sum_j P(j)\, N(z; \alpha_0 x_j, \sigma_0^2),

and the gap of a scheme is the bits by which its bound with this p exceeds the entropy of P. The expectation over
dequantizations is a midpoint rule over the scheme's quantiles; nothing is random.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffusion_density.density.images.dequantization import (
    SCHEMES,
    Dequantization,
    Draws,
    Scheme,
    dequantization,
    start_gamma,
)
from diffusion_density.machine import artifacts
from diffusion_density.process.schedules import LogLinear
from diffusion_density.studies.fields import Strict

LEVELS = 256
WIDTHS = (0.3, 0.5, 1.0, 2.0, math.inf)  # standard deviations of the pixel in levels; inf is flat
NODES = 4000


def run(sizes: Strict, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the gap of every scheme, start and width of the pixel's distribution, and of one sure level (width 0)."""
    sure = torch.zeros(LEVELS, dtype=torch.float64)
    sure[LEVELS // 2] = 1
    pmfs = {0.0: sure} | {width: gaussian_pmf(width) for width in WIDTHS}
    starts = {late: start_gamma(LEVELS, "uniform" if late else "truncated_normal") for late in (False, True)}
    rows = [
        {
            "width_levels": width,
            "dequantization": name,
            "late_start": late,
            "gamma": gamma,
            "gap_bits_per_dim": gap(scheme_at(name, gamma), pmf),
        }
        for width, pmf in pmfs.items()
        for late, gamma in starts.items()
        for name in SCHEMES
    ]
    artifacts.write_csv(outputs["gaps"], pd.DataFrame(rows))


def scheme_at(name: Scheme, gamma: float) -> Dequantization:
    """A scheme for images of 256 levels at γ of the variance-preserving path."""
    return dequantization(name, LEVELS, *LogLinear(gamma, gamma + 1).at(0.0))


def gaussian_pmf(width: float, levels: int = LEVELS) -> Float[Tensor, " levels"]:
    """A Gaussian of some standard deviation in levels at the middle level, integrated over bins; flat if infinite."""
    if width == math.inf:
        return torch.full((levels,), 1 / levels, dtype=torch.float64)
    edges = (torch.arange(levels + 1, dtype=torch.float64) - 0.5 - levels // 2) / width
    return torch.special.ndtr(edges).diff()


def gap(scheme: Dequantization, pmf: Float[Tensor, " levels"]) -> float:
    """Bits by which the bound exceeds the discrete entropy, for a perfect density."""
    pixels = pixels_of(pmf)
    draws, log_density = exact_draws(scheme, pixels, pmf.log())
    bound, _ = draws.average(log_density)
    weights = pmf[pixels] / pmf[pixels].sum()
    return (weights * (pmf[pixels].log() - bound)).sum().item() / math.log(2)


def pixels_of(pmf: Float[Tensor, " levels"]) -> Int64[Tensor, " n"]:
    """The levels over which gaps are averaged: all that occur, or of a flat distribution the middle one."""
    return (pmf > 1e-9).nonzero().flatten() if pmf.std() > 0 else torch.tensor([LEVELS // 2])


def exact_draws(
    scheme: Dequantization, pixels: Int64[Tensor, " n"], log_pmf: Float[Tensor, " levels"], count: int = NODES
) -> tuple[Draws, Float[Tensor, "n k"]]:
    """Quadrature nodes of one-pixel images, and log p there."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    nodes = u.view(1, count, 1, 1, 1).expand(len(pixels), -1, -1, -1, -1)
    draws = scheme.place(pixels.to(torch.uint8).view(-1, 1, 1, 1), nodes, torch.float64)
    return draws, log_mixture(draws.z, scheme, log_pmf).flatten(1)


def log_mixture(z: Tensor, scheme: Dequantization, log_pmf: Float[Tensor, " levels"]) -> Tensor:
    """log p(z) of the noised pixel, shape of z."""
    levels = (log_pmf > -60).nonzero().flatten()
    x = 2 * (levels.double() + 0.5) / scheme.levels - 1
    noise = (z[..., None] - scheme.alpha0 * x) / scheme.sigma0
    terms = log_pmf[levels] - 0.5 * noise.square() - math.log(scheme.sigma0) - 0.5 * math.log(2 * math.pi)
    return terms.logsumexp(-1)
