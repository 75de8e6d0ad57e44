r"""p(x | c) by the path integral and by the flow, an open question of Premkumar 2024, on problems with exact answers.

A network e(y, c, s) sees the noisy x and the clean c; all estimators stay what they are. For each of three problems
(see `conditional_problems`) the networks of all seeds are trained as one stack. Every seed has training pairs, test
pairs and noise of its own. The schedule is linear in log-SNR, where a network resolves the small noise that thin moons
need, and the likelihood's weight is constant. At its data end σ = e⁻⁷, a tenth of the moons' width. The plain path
integral's times are uniform in s, so in log-SNR here, which serves it well. Tables:

* *divergences* (one row per problem, estimator and seed): the mean over test pairs of log p(x | c) − estimate, in nats:
  the KL divergence of the network's conditional from the exact one in the mean over c (for a lower bound: at least
  that), with its standard error over the pairs; network evaluations and seconds per point.
* *log_probs* (one row per test pair of these): the exact log density and the estimate.
* *ranks* (one row per problem, seed, test pair and coordinate): simulation-based calibration (Talts et al. 2018), how
  many of L samples of the network's flow given c lie below the x that c came with. If the network's conditional is the
  exact one, ranks are uniform on 0 … L.
* *calibration* (one row per problem, seed and coordinate): the largest deviation of the ranks' distribution function
  from the uniform one and its Kolmogorov–Smirnov p-value, conservative for ranks; the cost of a sample.
* *classes* (one row per problem, seed, method, kind of noise, throws and repeat): x came with one of K equally likely
  contexts; the posterior of which, by log p(x | c) of each, against the exact one. Noise is common to the contexts or
  independent. The flow's posterior has no noise: what is left is the network's error. Not for the two moons, whose
  contexts are distinguished with certainty.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import kstwo
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.class_posterior import class_log_posterior
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.result import LogDensity
from diffusion_density.machine import artifacts
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear
from diffusion_density.sampling.flow_sampler import sample_flow
from diffusion_density.studies.comparison.conditional_problems import NAMES, Problem, problem
from diffusion_density.studies.comparison.sizes import CONDITIONAL_TABLES, Conditional, ConditionalRun
from diffusion_density.studies.density_formula.networks import PREDICTION, build, trained
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.stack import Member

Estimator = Callable[..., LogDensity]

SCHEDULE = LogLinear(-14.0, 7.0)
CLASSIFIED = ("linear_gaussian", "mixture")
_STREAM = 32_452_843


def run(sizes: ConditionalRun, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Train, and write the five tables."""
    tables: list[list[pd.DataFrame]] = [[], [], [], [], []]
    for name in NAMES:
        pairs = problem(name)
        stack = networks(pairs, sizes, name)
        for index, seed in enumerate(tqdm(sizes.seeds, desc=f"{name}: measuring", unit="network")):
            model = DiffusionModel(stack[index].requires_grad_(False), SCHEDULE, PREDICTION)
            generator = seeded(_STREAM, seed)
            parts = [*divergence(model, pairs, sizes, generator), *calibrate(model, pairs, sizes, generator)]
            if name in CLASSIFIED:
                parts.append(classify(model, pairs, sizes, generator))
            for table, part in zip(tables, parts, strict=False):
                part.insert(0, "problem", name)
                part.insert(1, "seed", seed)
                table.append(part)
    for name, table in zip(CONDITIONAL_TABLES, tables, strict=True):
        artifacts.write_csv(outputs[name], pd.concat(table))


def networks(pairs: Problem, sizes: ConditionalRun, label: str) -> MLP:
    """The networks of all seeds, as one stack."""
    members = []
    for seed in sizes.seeds:
        data = torch.cat(pairs.sample(sizes.samples, generator=seeded(seed)), dim=1).float()
        network = build(sizes.training, pairs.dimension, seed, pairs.context)
        members.append(Member(network, PREDICTION, "unit", data, seed))
    return trained(members, sizes.training, label, SCHEDULE)


def estimators(sizes: Conditional, throws: int) -> dict[str, Estimator]:
    """What is compared; each is called with a model, points and a generator."""
    return {
        "flow": partial(flow, rtol=sizes.tolerance, atol=sizes.tolerance),
        "plain": partial(path_integral, throws=throws),
        "reduced": partial(path_integral, throws=throws, method="reduced"),
    }


def divergence(
    model: DiffusionModel, pairs: Problem, sizes: Conditional, generator: torch.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The KL divergence by each estimator, and what it is the mean of."""
    x, context = pairs.sample(sizes.pairs, generator=generator)
    truth = pairs.log_prob(x, context)
    rows, points = [], []
    for name, estimator in estimators(sizes, sizes.throws).items():
        began = time.perf_counter()
        found = estimator(model.given(context.float()), x.float(), generator=generator)
        seconds = time.perf_counter() - began
        difference = truth - found.value.double()
        rows.append(
            {
                "estimator": name,
                "density": found.density,
                "kind": found.kind,
                "pairs": sizes.pairs,
                "kl_nats": difference.mean().item(),
                "kl_stderr_nats": difference.std().item() / sizes.pairs**0.5,
                "network_evaluations": found.network_evaluations,
                "seconds_per_point": seconds / sizes.pairs,
            }
        )
        columns = {"log_prob_nats": truth, "estimate_nats": found.value}
        each = {key: column.numpy() for key, column in columns.items()}
        points.append(pd.DataFrame({"estimator": name, "pair": range(sizes.pairs)} | each))
    return pd.DataFrame(rows), pd.concat(points)


def calibrate(
    model: DiffusionModel, pairs: Problem, sizes: Conditional, generator: torch.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranks of the true x among samples of the flow given c, and how far from uniform they are."""
    x, context = pairs.sample(sizes.calibrated, generator=generator)
    n, event = sizes.calibrated * sizes.draws, (pairs.dimension,)
    began = time.perf_counter()
    found = sample_flow(
        model.given(context.float()), n, event, rtol=sizes.tolerance, atol=sizes.tolerance, generator=generator
    )
    seconds = time.perf_counter() - began
    rank = ranks_among(x, found.x.reshape(sizes.calibrated, sizes.draws, -1).double())
    deviation = rank_deviation(rank, sizes.draws)
    count = pairs.dimension
    table = pd.DataFrame(
        {
            "pair": torch.arange(len(x)).repeat_interleave(count).numpy(),
            "coordinate": torch.arange(count).repeat(len(x)).numpy(),
            "rank": rank.flatten().numpy(),
            "draws": sizes.draws,
        }
    )
    summary = pd.DataFrame(
        {
            "coordinate": range(count),
            "pairs": len(x),
            "draws": sizes.draws,
            "deviation": deviation.numpy(),
            "p_value": kstwo.sf(deviation.numpy(), len(x)),
            "network_evaluations": int(found.network_evaluations.max()),
            "seconds_per_sample": seconds / n,
        }
    )
    return table, summary


def ranks_among(x: Float[Tensor, "n d"], samples: Float[Tensor, "n l d"]) -> Int[Tensor, "n d"]:
    """How many of L samples lie below x, in each coordinate: 0 to L."""
    return (samples < x[:, None]).sum(1)


def rank_deviation(ranks: Int[Tensor, "n d"], draws: int) -> Float[Tensor, " d"]:
    """The largest difference between the distribution function of N ranks and that of uniform ranks 0 … L."""
    levels = torch.arange(draws + 1)
    below = (ranks[..., None] <= levels).double().mean(0)
    return (below - (levels + 1) / (draws + 1)).abs().amax(1)


def classify(model: DiffusionModel, pairs: Problem, sizes: Conditional, generator: torch.Generator) -> pd.DataFrame:
    """The posterior of the context that x came with, among those of other pairs, by each estimator."""
    x, context = pairs.sample(sizes.classified, generator=generator)
    contexts = [context.roll(shift, 0) for shift in range(sizes.classes)]  # the right one comes first
    log_prior = torch.zeros(sizes.classes, dtype=torch.float64)
    bayes = torch.stack([pairs.log_prob(x, c) for c in contexts], dim=1).softmax(1)
    posterior = partial(class_log_posterior, [model.given(c.float()) for c in contexts], x.float(), log_prior)

    ways = product(("plain", "reduced"), ("common", "independent"), sizes.class_throws, range(sizes.repeats))
    rows = []
    for method, noise, throws, repeat in [("flow", "none", 0, 0), *ways]:
        estimator = estimators(sizes, throws)[method]
        found = posterior(estimator=estimator, seed=_STREAM + repeat, common=noise == "common")
        rows.append(
            {
                "method": method,
                "noise": noise,
                "throws": throws,
                "repeat": repeat,
                "posterior_error": (found.exp() - bayes).abs().mean().item(),
                "cross_entropy_nats": -found[:, 0].mean().item(),
                "bayes_cross_entropy_nats": -bayes[:, 0].log().mean().item(),
            }
        )
    return pd.DataFrame(rows)
