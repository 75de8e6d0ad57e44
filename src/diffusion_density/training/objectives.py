r"""Denoising score matching: one residual, three weightings.

Whatever a network predicts, its score makes the residual r = σ ∇log p̂_s(y) + ε at y = α x₀ + σ ε. Training minimises

.. math:: \int w(s)\, E\|r\|^2\, ds, \qquad w = 1 \ \text{(unit)}, \quad
          w = \frac{g^2}{2\sigma^2} \ \text{(likelihood)}, \quad
          w = \frac{g^2}{2\sigma^2}\, \mathrm{sigmoid}(2 - \lambda) \ \text{(sigmoid)}.

The unit weighting is the simple loss of DDPM; the last one is made for the quality of samples (Kingma & Gao 2023). With
the likelihood weighting the excess of the loss over its minimum is ∫ ½ g² E‖∇log p̂ − ∇log p‖² ds, the score-error
integral, which with KL(p_T ‖ prior) bounds the KL divergence of the data from the reverse SDE (paper A; Song et al.
2021). For entropy matching ``residual`` is the paper's (e − y) σ + ε on the variance-preserving schedule.
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
    """Where training times are drawn: uniformly, or with the weight's singularity at the data end taken out."""
    if weighting == "likelihood":
        return HalfSigma(schedule, schedule.s_start)
    return Uniform(schedule.s_start, schedule.s_max)
