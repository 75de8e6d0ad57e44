r"""The weights of the diffusion classifier, and its noise (Li and Yan 2024, section 4.3).

Two classes are equally likely, N(0, c² I) in D dimensions with c of ``CLASS_SCALES``. Exact models are the networks.
With ᾱ = α² = 1 − σ² and x_s = α x + σ ε, ε̂ = σ x_s/(ᾱ c² + σ²), so ε − ε̂ = (ᾱ c² ε − α σ x)/(ᾱ c² + σ²) and

.. math:: e_t(x; c) = E\|\epsilon - \hat\epsilon\|^2
          = \frac{D\,\bar\alpha^2 c^4 + \bar\alpha\,\sigma^2 \|x\|^2}{(\bar\alpha c^2 + \sigma^2)^2}.

*Weights* (no noise; one row for each choice of w_t in p(c|x) = softmax(log p(c) − Σ w_t e_t(x; c))): ``elbo_trapezoid``
and ``elbo_sum`` are the rules of the formula on T steps at equal distances in log-SNR from 9 to −9. ``uniform_sum``
(w_t = 1) and ``uniform_mean`` (w_t = 1/T) are the heuristic, on the linear DDPM schedule with T = 1000. ``exact`` is
Bayes' rule with the true densities, the reference of the others. The calibration error is that of the probability of
the predicted class in 15 bins of equal width.

*Sweep* (one row per estimator, kind of noise, a number of throws and a repeat): the posterior by Monte Carlo on
quadrature nodes in the same range of log-SNR, with noise that is common to the classes, or independent. ``plain``
averages ‖ε − ε̂‖², and ``controlled`` is the formula's own estimator, whose antithetic pairs and control variate remove
by themselves most of the noise that the classes share.
"""

from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffusion_density.density.class_posterior import FORMULA, class_log_posterior
from diffusion_density.density.formula import squared_errors, time_nodes
from diffusion_density.machine import artifacts
from diffusion_density.process.batches import ROWS_PER_CALL, normals, per_row
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import Discrete, LogLinear, Schedule
from diffusion_density.process.schedules import discrete as discrete_schedules
from diffusion_density.studies.density_formula.sizes import Classifier
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.targets import normal

CLASS_DIMENSION = 8
CLASS_SCALES = (1.0, 1.6)  # standard deviations of two centred normal distributions
LINEAR_STEPS = 1000
BINS = 15
SWEEP_POINTS = 512  # at most
NODES = 32
SEED = 7


def run(sizes: Classifier, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table of weights, and that of the noise on at most 512 of its points."""
    x, labels = _points(sizes.points)
    log_prior = -torch.full((len(CLASS_SCALES),), len(CLASS_SCALES), dtype=torch.float64).log()
    classes = [normal(CLASS_DIMENSION, scale) for scale in CLASS_SCALES]
    bayes = (log_prior + torch.stack([c.log_prob(x) for c in classes], dim=1)).log_softmax(1)
    rows = []
    for name, (schedule, weights) in _weights(sizes.steps).items():
        values = [-expected_errors(x, scale, schedule) @ weights for scale in CLASS_SCALES]
        found = (log_prior + torch.stack(values, dim=1)).log_softmax(1)
        rows.append({"weights": name} | summary(found, bayes, labels))
    rows.insert(0, {"weights": "exact"} | summary(bayes, bayes, labels))
    artifacts.write_csv(outputs["classifier"], pd.DataFrame(rows))
    few = slice(SWEEP_POINTS)
    artifacts.write_csv(outputs["classifier_noise"], _sweep(sizes, x[few], labels[few], log_prior, bayes[few]))


def expected_errors(x: Float[Tensor, "b d"], scale: float, schedule: Discrete) -> Float[Tensor, "b n"]:
    """E‖ε − ε̂‖² at clean points and at every step of a chain, for the exact model of N(0, scale² I)."""
    alpha_bar = schedule.log_snr_steps.sigmoid()
    variance = (-schedule.log_snr_steps).sigmoid()
    square = x.square().sum(1, keepdim=True)
    error = x.shape[1] * (alpha_bar * scale**2).square() + alpha_bar * variance * square
    return error / (alpha_bar * scale**2 + variance).square()


def summary(found: Float[Tensor, "b c"], bayes: Float[Tensor, "b c"], labels: Int64[Tensor, " b"]) -> dict[str, float]:
    """What a log posterior is worth on labelled points, and how far it is from that of Bayes (B, C)."""
    error = (found.exp() - bayes.exp()).abs().max().item()
    return scores(found, labels) | {"agreement": _agreement(found, bayes), "max_posterior_error": error}


def scores(found: Float[Tensor, "b c"], labels: Int64[Tensor, " b"]) -> dict[str, float]:
    """Accuracy, cross-entropy in nats and calibration error of a log posterior on labelled points."""
    right = (found.argmax(1) == labels).double()
    cross_entropy = -found.gather(1, labels[:, None])[:, 0]
    root = len(labels) ** 0.5
    return {
        "accuracy": right.mean().item(),
        "accuracy_stderr": right.std().item() / root,
        "cross_entropy_nats": cross_entropy.mean().item(),
        "cross_entropy_stderr_nats": cross_entropy.std().item() / root,
        "calibration_error": calibration_error(found.exp().amax(1), right),
    }


def calibration_error(confidence: Float[Tensor, " b"], right: Float[Tensor, " b"]) -> float:
    """The mean over points of |share of right answers − mean confidence| of their bin: 15 bins of [0, 1]."""
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    excess = torch.zeros(BINS, dtype=torch.float64).index_add(0, index, right - confidence)
    return excess.abs().sum().item() / len(confidence)


def _points(count: int) -> tuple[Float[Tensor, "b d"], Int64[Tensor, " b"]]:
    """Points and their classes, all from one generator."""
    generator = seeded(SEED)
    labels = torch.randint(len(CLASS_SCALES), (count,), generator=generator)
    noise = torch.randn(count, CLASS_DIMENSION, generator=generator, dtype=torch.float64)
    return torch.tensor(CLASS_SCALES, dtype=torch.float64)[labels, None] * noise, labels


def _weights(steps: int) -> dict[str, tuple[Discrete, Float[Tensor, " n"]]]:
    """By name, a chain and w_t for each of its steps."""
    chain, linear = discrete_schedules.uniform_log_snr(steps), discrete_schedules.linear(LINEAR_STEPS)
    total = torch.nn.functional.pad(time_nodes(chain, "sum", steps).weights, (1, 0))  # from the second step on
    ones = torch.ones(LINEAR_STEPS, dtype=torch.float64)
    return {
        "elbo_trapezoid": (chain, time_nodes(chain, "trapezoid", steps).weights),
        "elbo_sum": (chain, total),
        "uniform_mean": (linear, ones / LINEAR_STEPS),
        "uniform_sum": (linear, ones),
    }


def network(scale: float, schedule: Schedule) -> DiffusionModel:
    """The exact noise prediction of N(0, scale² I) as a network."""

    def noise(x: Tensor, s: Tensor) -> Tensor:
        sigma = schedule.sigma(s)
        return per_row(sigma / ((schedule.alpha(s) * scale).square() + sigma.square()), x) * x

    return DiffusionModel(noise, schedule)


def _sweep(sizes: Classifier, x: Tensor, labels: Tensor, log_prior: Tensor, bayes: Tensor) -> pd.DataFrame:
    schedule = LogLinear(-9.0, 9.0)
    models = [network(scale, schedule) for scale in CLASS_SCALES]
    rows = []
    for noise, throws, repeat in product(("common", "independent"), sizes.throws, range(sizes.repeats)):
        common = noise == "common"
        estimates = {
            "controlled": class_log_posterior(
                models, x, log_prior, estimator=partial(FORMULA, throws=throws), seed=repeat, common=common
            ),
            "plain": _plain(models, x, log_prior, throws, repeat, common),
        }
        for estimator, found in estimates.items():
            rows.append(
                {
                    "estimator": estimator,
                    "noise": noise,
                    "throws": throws,
                    "repeat": repeat,
                    "agreement": _agreement(found, bayes),
                    "cross_entropy_nats": -found.gather(1, labels[:, None]).mean().item(),
                    "posterior_error": (found.exp() - bayes.exp()).abs().mean().item(),
                }
            )
    return pd.DataFrame(rows)


def _plain(
    models: list[DiffusionModel], x: Tensor, log_prior: Tensor, throws: int, seed: int, common: bool
) -> Float[Tensor, "b c"]:
    """The log posterior from plain averages of squared errors, on the nodes of `class_log_posterior`."""
    nodes = time_nodes(models[0].schedule, "quadrature", NODES)
    times, weights = nodes.times.repeat_interleave(throws), nodes.weights.repeat_interleave(throws) / throws
    generator = seeded(seed)
    values = []
    for model in models:
        if common:
            generator.manual_seed(seed)
        parts = []
        for part in x.split(max(1, ROWS_PER_CALL // len(times))):
            noise = normals(part, len(times), x.shape[1], generator)
            with torch.inference_mode():
                parts.append(-squared_errors(model, part, times, noise) @ weights)
        values.append(torch.cat(parts))
    return (log_prior + torch.stack(values, dim=1)).log_softmax(1)


def _agreement(found: Tensor, bayes: Tensor) -> float:
    """The share of points with the same most likely class."""
    return (found.argmax(1) == bayes.argmax(1)).double().mean().item()
