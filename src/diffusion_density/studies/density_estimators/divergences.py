r"""KL divergences of a known mixture from a trained model, by every estimator of Premkumar 2024.

For data p, a model's SDE density p_u and flow density p_v (in nats):

* ``path_integral``: E_p[log p − bound], an upper bound on KL(p‖p_u);
* ``score_error``: KL(p_T‖prior) + ∫ ½ g² E_p‖a − ∇log p_s‖² ds, the same number with a far smaller standard error, as
  the exact score of a mixture is known;
* ``loss_difference``: KL(p_T‖prior) + the likelihood-weighted denoising loss minus that of the exact score: again;
* ``flow``: E_p[log p − log p_v] = KL(p‖p_v), another number, about another density.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.process.batches import ROWS_PER_CALL, per_row
from diffusion_density.process.mixtures import ExactModel, GaussianMixture
from diffusion_density.process.model import GaussianPrior, Model
from diffusion_density.process.proposals import HalfSigma
from diffusion_density.process.schedules import Schedule
from diffusion_density.training.objectives import weight


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error, in nats."""

    value: float
    stderr: float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """Of independent values (n,)."""
        values = values.double()
        return cls(values.mean().item(), (values.std() / len(values) ** 0.5).item())

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.value + other.value, (self.stderr**2 + other.stderr**2) ** 0.5)


@dataclass(frozen=True)
class Diffused:
    """Draws (x, s, ε) of the forward process of a mixture, with the exact score at y and the weights of an integral."""

    y: Tensor
    s: Tensor
    noise: Tensor
    exact: Tensor
    likelihood: Tensor

    @classmethod
    def draw(cls, mixture: GaussianMixture, schedule: Schedule, n: int, generator: torch.Generator) -> "Diffused":
        """n draws with times from the proposal that is half uniform in σ, in single precision."""
        proposal = HalfSigma(schedule, schedule.s_start)
        x = mixture.sample(n, generator=generator, dtype=torch.float32)
        s = proposal.times(torch.rand(n, generator=generator))
        noise = torch.randn(x.shape, generator=generator)
        y = per_row(schedule.alpha(s), x) * x + per_row(schedule.sigma(s), x) * noise
        exact = mixture.diffused(schedule)
        score = torch.cat(
            [exact.score(*part) for part in zip(y.split(ROWS_PER_CALL), s.split(ROWS_PER_CALL), strict=True)]
        )
        return cls(y, s, noise, score, weight("likelihood", schedule, s) / proposal.density(s))

    def score(self, model: Model) -> Tensor:
        """The model's score at every draw, (n, D)."""
        with torch.inference_mode():
            parts = zip(self.y.split(ROWS_PER_CALL), self.s.split(ROWS_PER_CALL), strict=True)
            return torch.cat([model.score(*part) for part in parts])


def prior_mismatch(exact: ExactModel, n: int, generator: torch.Generator) -> Mean:
    """KL(p_T‖N(0, σ_T² I)): what the forward process has not forgotten of the data at s_max."""
    schedule = exact.schedule
    alpha, sigma = schedule.at(schedule.s_max)
    x = exact.mixture.sample(n, generator=generator)
    end = alpha * x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return Mean.of(exact.prior.log_prob(end) - GaussianPrior(sigma**2).log_prob(end))


def score_error(model: Model, draws: Diffused) -> Mean:
    """∫ ½ g² E‖a − ∇log p_s‖² ds."""
    gap = (draws.score(model) - draws.exact).square().sum(1)
    return Mean.of(draws.likelihood * model.schedule.sigma(draws.s).square() * gap)


def loss_difference(model: Model, draws: Diffused) -> Mean:
    """The likelihood-weighted denoising loss minus that of the exact score, on the same draws."""
    sigma = per_row(model.schedule.sigma(draws.s), draws.y)
    loss, least = ((sigma * score + draws.noise).square().sum(1) for score in (draws.score(model), draws.exact))
    return Mean.of(draws.likelihood * (loss - least))


def by_path_integral(model: Model, x: Tensor, truth: Tensor, throws: int, generator: torch.Generator) -> Mean:
    """E[log p − bound] over points x (n, D) with log p ``truth`` (n,); the error holds points and throws."""
    return Mean.of(truth - path_integral(model, x, throws=throws, generator=generator).value)
