r"""Density tracking: samples of the reverse process together with their log density, at the cost of the samples.

Along the reverse process of stochasticity κ >= 0 (`reverse_process`; ds < 0, W̄ runs backward, D numbers an event)

.. math:: dx = \big(f x - \tfrac12 (1 + \kappa) g^2 s_\theta\big) ds + \sqrt\kappa\, g\, d\bar W,

Itô's formula and the Fokker–Planck equation give for an exact score, with the *same* noise (Karczewski, Heinonen and
Garg 2025, Theorem 1, for κ = 1; docs/derivations/reverse-process.md for every κ)

.. math:: d \log p_s(x) = \big[-f D + \tfrac12 (1 - \kappa) g^2\, \mathrm{div}\, s_\theta
          - \tfrac12 \kappa g^2 \|s_\theta\|^2\big] ds + \sqrt\kappa\, g\, s_\theta \cdot d\bar W.

κ = 0 is the change of variables along the probability-flow ODE, exact for any score. κ = 1 needs no derivative of the
score. If s_θ is not exact, the density p^κ of the process has another score, s^κ = ∇log p^κ, and

.. math:: d \log p^\kappa = \big[-f D + \tfrac12 (1 + \kappa) g^2\, \mathrm{div}\, s_\theta
          - \kappa g^2\, \mathrm{div}\, s^\kappa - \tfrac12 \kappa g^2 \|s^\kappa\|^2\big] ds
          + \sqrt\kappa\, g\, s^\kappa \cdot d\bar W.

Integration by parts gives E div(s_θ − s^κ) = −E (s_θ − s^κ)·s^κ over x ~ p^κ. So the tracked value r exceeds log p^κ
in the mean over samples, for every κ > 0 (Karczewski, Heinonen and Garg 2025, eq. 3, for κ = 1):

.. math:: E[r - \log p^\kappa] = \tfrac\kappa2 \int g^2\, E_{p^\kappa} \|s_\theta - s^\kappa\|^2\, ds \ge 0.

Euler–Maruyama steps add noise of standard deviation ∝ steps^−½ to r and a bias ∝ 1/steps. The bound of
`density.chain.reverse_chain` has no such bias. Times are uniform in s; times uniform in log-SNR gave 1.4 times the
noise in a test. With w = √(κ g² h) s_θ, a step of length h and noise z adds w·(z + ½ w) for both terms of κ.
"""

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.ode.divergence import rademacher, with_divergence
from diffusion_density.density.result import LogDensity, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import ROWS_PER_CALL, flat
from diffusion_density.process.model import Model
from diffusion_density.process.reverse_process import prior_sample, reverse_steps


def track(
    model: Model,
    n: int,
    *,
    event: tuple[int, ...],
    steps: int = 1000,
    stochasticity: float = 1.0,
    divergence: Literal["exact", "hutchinson"] = "hutchinson",
    probes: int = 1,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "n *event"], LogDensity]:
    """Draw n samples of a model with a Gaussian prior, each with its log density at s_start.

    If no probes are drawn, up to 16 384 samples are the same as those of `sampling.samplers.sample` from the same
    generator.

    Args:
        model: the score and its schedule.
        n: how many.
        event: the shape of one sample.
        steps: Euler–Maruyama steps, uniform in s.
        stochasticity: κ, 0 for the flow, 1 for the reverse SDE.
        divergence: ``exact`` or ``hutchinson``; not computed for κ = 1.
        probes: K, the Rademacher probes of ``hutchinson``, drawn again at every step.
        generator: draws the prior's sample, the noise and the probes; its device is the samples'.
        dtype: of the samples; log densities are summed in double precision.

    Returns:
        (n, *event) samples at ``schedule.s_start``, and their LogDensity in nats, up to the error of the steps. For
        κ = 0 it is of the ``flow``: ``exact``, or ``unbiased`` by Hutchinson. For κ > 0 it is of the ``sde``, the
        process of that κ: an ``upper`` bound in the mean over samples, not for each one; there is no excess for an
        exact score. The standard error, for K >= 2 probes, is that of the divergence alone. One network evaluation per
        step for κ = 1, else 1 + K or 1 + D. Samples that are not finite have the value NaN with their status.

    Raises:
        InputError: for counts below one, a negative stochasticity, an unknown divergence, or a prior that can't be
            sampled.
    """
    if min(n, steps, probes) < 1 or not 0 <= stochasticity < float("inf"):
        raise InputError(
            f"track: n, steps, probes >= 1 and stochasticity >= 0, got {n}, {steps}, {probes} and {stochasticity}"
        )
    if divergence not in ("exact", "hutchinson"):
        raise InputError(f"track: divergence is 'exact' or 'hutchinson', not {divergence!r}")
    derivatives = stochasticity != 1
    count = probes if derivatives and divergence == "hutchinson" else 0
    with torch.inference_mode(not derivatives), torch.no_grad():  # inference mode would forbid a divergence
        parts = []
        for first in range(0, n, ROWS_PER_CALL):
            start = prior_sample(model, min(ROWS_PER_CALL, n - first), event, generator=generator, dtype=dtype)
            parts.append(_tracked(model, start, steps, stochasticity, count, generator))
    samples, tracked = (torch.cat(columns) for columns in zip(*parts, strict=True))
    dimension = samples[0].numel()
    return samples, estimated(
        tracked.mean(1),
        tracked.std(1) / count**0.5 if count > 1 else None,
        kind="upper" if stochasticity else "unbiased" if count else "exact",
        density="sde" if stochasticity else "flow",
        network_evaluations=steps * (1 + (count or dimension if derivatives else 0)),
        settings={
            "estimator": "track",
            "steps": steps,
            "stochasticity": stochasticity,
            "divergence": divergence if derivatives else None,
            "probes": count or None,
        },
    )


def _tracked(
    model: Model, x: Tensor, steps: int, stochasticity: float, probes: int, generator: torch.Generator
) -> tuple[Tensor, Float[Tensor, "b k"]]:
    """The ends of the paths from x ~ prior, and their log density: one per probe, or by the exact divergence."""
    tracked = model.prior.log_prob(x).double()[:, None].repeat(1, probes or 1)
    for step in reverse_steps(model.schedule, steps, stochasticity, x.dtype, x.device):
        tracked += step.length * step.drift * x[0].numel()
        if stochasticity == 1:
            score = model.score(x, step.s)
        else:
            eta = rademacher(x, probes, generator) if probes else None
            score, divergence = with_divergence(partial(model.score, s=step.s), x, eta)
            tracked -= 0.5 * (1 - stochasticity) * step.length * step.diffusion * divergence
        noise = step.noise(x, generator)
        if noise is not None:
            shift = step.spread * score
            tracked += flat(shift * (noise + 0.5 * shift)).sum(1, keepdim=True, dtype=torch.float64)
        x = step.move(x, score, noise)
    return x, tracked
