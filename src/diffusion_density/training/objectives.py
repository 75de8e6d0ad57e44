r"""Denoising score matching: one residual, three weightings.

For every prediction, the network's score gives the residual r = σ ∇log p̂_s(y) + ε at y = α x₀ + σ ε. Training
minimises

.. math:: \int w(s)\, E\|r\|^2\, ds, \qquad w = 1 \ \text{(unit)}, \quad
          w = \frac{g^2}{2\sigma^2} \ \text{(likelihood)}, \quad
          w = \frac{g^2}{2\sigma^2}\, \mathrm{sigmoid}(2 - \lambda) \ \text{(sigmoid)}.

The unit weighting is the simple loss of DDPM (Ho et al. 2020); the sigmoid weighting is made for the quality of samples
(Kingma and Gao 2023). With the likelihood weighting the loss exceeds its minimum by ∫ ½ g² E‖∇log p̂ − ∇log p‖² ds, the
score-error integral. Plus KL(p_T ‖ prior), it is an upper bound on the KL divergence from the data distribution to the
distribution of the reverse SDE (Song et al. 2021). For entropy matching on the variance-preserving schedule,
``residual`` is (e − y) σ + ε (Premkumar 2024).
"""

from typing import Literal

import torch
from torch import Tensor

from diffusion_density.process.batches import per_row
from diffusion_density.process.predictions import Prediction, to_score
from diffusion_density.process.proposals import HalfSigma, Proposal, Uniform
from diffusion_density.process.schedules import Schedule

Weighting = Literal["unit", "likelihood", "sigmoid"]


def residual(prediction: Prediction, output: Tensor, noise: Tensor, schedule: Schedule, y: Tensor, s: Tensor) -> Tensor:
    """r = σ ∇log p̂_s(y) + ε, shape (B, *), of a network's output at y = α x₀ + σ ε and times s of shape (B,)."""
    return per_row(schedule.sigma(s), y) * to_score(prediction, output, schedule, y, s) + noise


def weight(weighting: Weighting, schedule: Schedule, s: Tensor) -> Tensor:
    """w(s), the weight of ‖r‖² in the objective, shape of s."""
    if weighting == "unit":
        return torch.ones_like(s)
    likelihood = 0.5 * schedule.diffusion(s) / schedule.sigma(s).square()
    return likelihood if weighting == "likelihood" else likelihood * (2 - schedule.log_snr(s)).sigmoid()


def proposal(weighting: Weighting, schedule: Schedule) -> Proposal:
    """The distribution of training times: uniform, or one that cancels the weight's singularity at the data end."""
    if weighting == "likelihood":
        return HalfSigma(schedule, schedule.s_start)
    return Uniform(schedule.s_start, schedule.s_max)
