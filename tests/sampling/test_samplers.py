"""Samples against the moments of an exact model."""

import pytest
import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.sampling.samplers import sample

SCHEDULE = VariancePreserving()


def exact() -> tuple[GaussianMixture, DiffusionModel]:
    weights = torch.tensor([0.3, 0.7])
    means = torch.tensor([[-1.5, 0.5], [1.0, -0.5]])
    covariances = torch.tensor([[[0.25, 0.1], [0.1, 0.3]], [[0.2, 0.0], [0.0, 0.4]]])
    mixture = GaussianMixture(weights, means, covariances)
    model = mixture.diffused(SCHEDULE)
    return mixture, DiffusionModel(lambda x, s: model.score(x, s), SCHEDULE, "score")


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    mean = mixture.weights @ mixture.means
    spread = mixture.means - mean
    within = (mixture.weights[:, None, None] * mixture.covariances).sum(0)
    return mean, within + torch.einsum("k,kd,ke->de", mixture.weights, spread, spread)


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 2.0])
def test_samples_have_the_moments_of_the_data(stochasticity: float) -> None:
    mixture, model = exact()
    n = 10_000
    generator = torch.Generator().manual_seed(1)
    x = sample(model, n, (2,), steps=400, stochasticity=stochasticity, generator=generator, dtype=torch.float64)
    mean, covariance = moments(mixture)
    standard_error = (covariance.diagonal() / n).sqrt()
    discretisation = 0.01  # Euler–Maruyama's, of order 1/steps
    assert ((x.mean(0) - mean).abs() < 4.5 * standard_error + discretisation).all()
    assert torch.allclose(x.T.cov(), covariance, atol=0.04)
    left = (x[:, 0] < -0.3).double().mean()
    truth = (mixture.sample(n, generator=generator)[:, 0] < -0.3).double().mean()
    assert abs(left - truth) < 0.025


def test_the_flow_is_deterministic_and_the_sde_is_not() -> None:
    _, model = exact()

    def draw(stochasticity: float, steps: int) -> Tensor:
        g = torch.Generator().manual_seed(2)
        return sample(model, 50, (2,), steps=steps, stochasticity=stochasticity, generator=g, dtype=torch.float64)

    assert torch.equal(draw(1.0, 20), draw(1.0, 20))
    coarse, fine, finer = (draw(0.0, steps) for steps in (200, 400, 800))
    ratio = (coarse - fine).norm() / (fine - finer).norm()
    assert 1.7 < ratio < 2.4  # first order
    assert (draw(1.0, 200) - coarse).norm() > 1


@pytest.mark.parametrize("wrong", [{"n": 0}, {"steps": 0}, {"stochasticity": -1.0}, {"stochasticity": float("nan")}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    _, model = exact()
    settings = {"n": 3, "steps": 2, "stochasticity": 1.0} | wrong
    with pytest.raises(InputError, match="sample: n, steps >= 1"):
        sample(
            model,
            int(settings["n"]),
            (2,),
            steps=int(settings["steps"]),
            stochasticity=settings["stochasticity"],
            generator=torch.Generator(),
        )


def test_a_prior_that_cannot_be_drawn_is_refused() -> None:
    mixture, _ = exact()
    with pytest.raises(InputError, match="prior is not Gaussian"):
        sample(mixture.diffused(SCHEDULE), 3, (2,), generator=torch.Generator())
