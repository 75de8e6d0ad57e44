"""A schedule that the library has never seen, α = 1 − s and σ = s: right densities and samples for every prediction."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from diffusion_density.density import bits_per_dim, chain, flow, formula, path_integral, reverse_chain, track
from diffusion_density.density.result import LogDensity
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import PREDICTIONS, Prediction
from diffusion_density.process.schedules import LogLinear
from diffusion_density.sampling.alignment import score_alignment
from diffusion_density.sampling.flow_sampler import sample_flow
from diffusion_density.sampling.samplers import sample
from truths import Rectified, doubles, gaussian, network_of, random_mixture, seeded

OWN = Rectified()
MIXTURE = random_mixture(2)
X = MIXTURE.sample(4, generator=seeded(1))
TRUTH = MIXTURE.log_prob(X)

EXACT: dict[str, Callable[..., LogDensity]] = {
    "flow": partial(flow, rtol=1e-6, atol=1e-6),
    "sweeps": partial(flow, solver="sweeps"),
}
# with the largest standard error that makes the test a sharp one
RANDOM: dict[str, tuple[Callable[..., LogDensity], float]] = {
    "path integral": (partial(path_integral, throws=8192, cutoff=1e-3), 0.4),
    "reduced": (partial(path_integral, throws=1024, method="reduced"), 0.05),
    "trapezoid": (partial(formula, rule="trapezoid", steps=100, throws=128), 0.06),
    "quadrature": (partial(formula, rule="quadrature", steps=32, throws=128), 0.06),
}
IN_LOG_SNR: dict[str, Callable[..., LogDensity]] = {
    "sum": partial(formula, rule="sum", steps=200, throws=8),
    "trapezoid": partial(formula, rule="trapezoid", steps=50, throws=8),
    "quadrature": partial(formula, rule="quadrature", steps=16, throws=8),
    "chain": partial(chain, steps=100, paths=32),
}
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


@each_prediction
@pytest.mark.parametrize("name", EXACT)
def test_the_flow(name: str, prediction: Prediction) -> None:
    result = EXACT[name](network_of(MIXTURE.diffused(OWN), prediction), X)
    torch.testing.assert_close(result.value, TRUTH, rtol=0, atol=1e-4)


@each_prediction
@pytest.mark.parametrize("name", RANDOM)
def test_estimates_with_an_error(name: str, prediction: Prediction) -> None:
    estimate, largest = RANDOM[name]
    result = estimate(network_of(MIXTURE.diffused(OWN), prediction), X, generator=seeded(2))
    assert result.stderr is not None
    assert result.stderr.max() < largest
    assert ((result.value - TRUTH).abs() < 4 * result.stderr).all()


@each_prediction
@pytest.mark.parametrize("name", IN_LOG_SNR)
def test_estimates_along_the_log_snr_are_those_of_a_known_schedule(name: str, prediction: Prediction) -> None:
    """The same log-SNRs on the variance-preserving path, and the same noise: the same estimate.

    Known are the sum and the chain as well, which differ from the truth by their steps: see `test_formula`.
    """
    ends = (-OWN.log_snr(doubles(OWN.s_start, OWN.s_max))).tolist()
    estimates = [
        IN_LOG_SNR[name](network_of(MIXTURE.diffused(schedule), prediction), X, generator=seeded(3))
        for schedule in (OWN, LogLinear(*ends))
    ]
    values = [estimate.value for estimate in estimates]
    torch.testing.assert_close(*values, rtol=0, atol=1e-3 if name == "chain" else 1e-6)
    stderr = estimates[0].stderr
    assert stderr is not None
    assert (values[0] < TRUTH + 4 * stderr).all()


@each_prediction
def test_images(prediction: Prediction) -> None:
    """Two pixels of four levels with known probabilities: the flow, and the bound, which adds the decoder's loss."""
    pmf = torch.softmax(torch.randn(16, generator=seeded(4), dtype=torch.float64), dim=0)
    images = torch.cartesian_prod(torch.arange(4), torch.arange(4)).to(torch.uint8)
    x = 2 * (images.double() + 0.5) / 4 - 1
    exact = GaussianMixture(pmf, x, 1e-14 * torch.eye(2, dtype=torch.float64).expand(16, -1, -1)).diffused(OWN)
    score = partial(
        bits_per_dim,
        network_of(exact, prediction),
        images.reshape(16, 1, 1, 2),
        levels=4,
        start=1 / 13,  # half a bin is three standard deviations
        generator=seeded(5),
        dtype=torch.float64,
    )
    truth = -pmf.log2() / 2
    found = score(divergence="exact", draws=16, rtol=1e-3, atol=1e-3, chunk=256)
    bound = score(estimator="bound", throws=512, chunk=2048)
    for result, loss in ((found, 0.004), (bound, 0.01)):
        assert result.stderr is not None
        assert result.stderr.max() < 0.3
        assert ((result.value - truth - loss).abs() < 4 * result.stderr + 0.01).all()


@each_prediction
def test_single_precision(prediction: Prediction) -> None:
    model, x = network_of(MIXTURE.diffused(OWN), prediction), X.float()
    torch.testing.assert_close(flow(model, x, rtol=1e-4, atol=1e-4).value, TRUTH, rtol=0, atol=3e-3)
    double, single = (path_integral(model, y, throws=64, method="reduced", generator=seeded(6)).value for y in (X, x))
    torch.testing.assert_close(single, double, rtol=0, atol=3e-3)


def drawn(prediction: Prediction, n: int, steps: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """n samples of every sampler, and their log densities where it gives them."""
    schedule = Rectified()
    schedule.s_max = 0.985  # further from the singular end, where Euler–Maruyama steps would have to be shorter
    exact = MIXTURE.diffused(schedule)
    model = DiffusionModel(getattr(exact, prediction), schedule, prediction)
    many = {"n": n, "event": (2,), "dtype": torch.float64}
    tracked, log_density = track(model, **many, steps=steps, generator=seeded(7))
    chained, above = reverse_chain(model, **many, steps=steps, generator=seeded(8))
    return {
        "flow, Euler steps": (sample(model, **many, steps=steps, stochasticity=0.0, generator=seeded(9)), None),
        "flow": (sample_flow(model, **many, rtol=1e-3, atol=1e-3, generator=seeded(10)).x, None),
        "tracked": (tracked, log_density.value),
        "chain": (chained, above.value),
    }


def test_samples() -> None:
    n = 2000
    truth = MIXTURE.sample(200_000, generator=seeded(11))
    for name, (x, log_prob) in drawn("velocity", n, 200).items():
        error = (truth.var(0).max() / n).sqrt().item()
        torch.testing.assert_close(x.mean(0), truth.mean(0), rtol=0, atol=4.5 * error, msg=name)
        torch.testing.assert_close(x.T.cov(), truth.T.cov(), rtol=0, atol=0.15, msg=name)
        if log_prob is not None:  # the excess of both falls as 1/steps
            assert -0.05 < (log_prob - MIXTURE.log_prob(x)).mean() < {"tracked": 0.7, "chain": 2}[name]


def test_samples_are_the_same_for_every_prediction() -> None:
    sets = [drawn(prediction, 5, 20) for prediction in PREDICTIONS]
    for other in sets[1:]:
        for name, (x, _) in sets[0].items():
            torch.testing.assert_close(other[name][0], x, rtol=0, atol=1e-6)


def test_the_alignment_of_a_normal_distribution() -> None:
    """Derivatives of the schedule within derivatives of the score: SA is the squared norm of the latents' score."""
    exact = gaussian(0.5, 0.64).diffused(OWN)
    latents = doubles(-1.0, 0.3, 2.0)[:, None]
    expected = exact.score(latents, OWN.s_max).square().sum(1)
    torch.testing.assert_close(score_alignment(exact, latents, steps=50), expected, rtol=1e-3, atol=1e-4)
