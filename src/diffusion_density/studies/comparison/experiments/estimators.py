"""Every estimator on the same targets, at several costs: one row per point and setting.

The targets of this job are mixtures with their exact score: there the flow and the reverse SDE have the same density,
the true one. Most estimators get the points of a batch. Those that sample have their own points, where the truth is
known just as well. They start from a normal prior, the others from the exact marginal.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.chain import chain, reverse_chain
from diffusion_density.density.formula import formula
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.density.result import LogDensity
from diffusion_density.density.tracking import track
from diffusion_density.machine import artifacts
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel, Model
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.comparison.sizes import Budgets, Estimators
from diffusion_density.studies.shared.seeds import seeded

SCHEDULE = VariancePreserving(0.1, 20.0)
SEED = 20
TIMES = 32  # times of the formula's quadrature
PATHS = 4  # paths of the chain
THROWS = 4  # throws of the sums at each step

Estimate = Callable[[Model, Tensor, torch.Generator], tuple[Tensor, LogDensity]]
Reference = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """An estimator at one cost.

    Attributes:
        name: in the registry.
        setting: tolerance, probes, throws or steps.
        run: from model, points and generator to points and their estimates.
        samples: whether it draws its own points, as many as it is given.
        clean: whether it takes points without any noise, and adds the noise of s_start itself.
    """

    name: str
    setting: float
    run: Estimate
    samples: bool = False
    clean: bool = False


def candidates(budgets: Budgets, images: bool, chunk: int) -> Iterator[Candidate]:
    """All estimators at all costs. For images the exact trace is left out, and tolerances are per dimension."""
    middle = budgets.tolerances[len(budgets.tolerances) // 2]
    for tolerance in () if images else budgets.tolerances:
        yield Candidate("flow", tolerance, _at_points(flow, rtol=tolerance, atol=tolerance))
    for probes in budgets.probes:
        hutchinson = {"rtol": middle, "atol": middle, "divergence": "hutchinson", "per_dimension": images}
        yield Candidate("flow_hutchinson", probes, _at_points(flow, **hutchinson, probes=probes))
    for throws in budgets.throws:
        yield Candidate("path_integral", throws, _at_points(path_integral, throws=throws, chunk=chunk))
        reduced = {"throws": throws, "method": "reduced", "chunk": chunk}
        yield Candidate("reduced", throws, _at_points(path_integral, **reduced))
    for noises in budgets.noises:
        quadrature = {"rule": "quadrature", "steps": TIMES, "throws": noises, "chunk": chunk}
        yield Candidate("formula", noises, _at_points(formula, **quadrature), clean=True)
    for steps in budgets.steps:
        for name, rule in (("ddpm_sum", "sum"), ("trapezoid", "trapezoid")):
            sum_over = {"rule": rule, "steps": steps, "throws": THROWS, "chunk": chunk}
            yield Candidate(name, steps, _at_points(formula, **sum_over), clean=True)
        yield Candidate("chain", steps, _at_points(chain, steps=steps, paths=PATHS), clean=True)
        yield Candidate("tracking", steps, _sampled(track, steps=steps), samples=True)
        yield Candidate("reverse_chain", steps, _sampled(reverse_chain, steps=steps), samples=True)


def score(
    model: Model,
    x: Tensor,
    reference: Tensor,
    truth: Reference,
    budgets: Budgets,
    labels: dict[str, object],
    chunk: int = ROWS_PER_CALL,
    clean: Tensor | None = None,
) -> pd.DataFrame:
    """One row per point and setting: the value, its standard error, the true value, and the cost.

    Args:
        model: the score that is measured; samplers use it with a normal prior.
        x: (B, *) points.
        reference: (B,) their true log density in nats.
        truth: gives the same for the points that a sampler draws.
        budgets: the settings.
        labels: columns that name the target.
        chunk: the largest number of rows of one network call, where an estimator splits them.
        clean: (B, *) the points without the noise of s_start, if it matters.
    """
    tables = []
    plain = DiffusionModel(model.score, model.schedule, "score")
    settings = list(candidates(budgets, x.ndim > 2, chunk))
    for candidate in tqdm(settings, desc=" ".join(map(str, labels.values())), unit="setting"):
        generator = seeded(SEED, device=x.device)
        began = time.perf_counter()
        given = clean if candidate.clean and clean is not None else x
        points, result = candidate.run(plain if candidate.samples else model, given, generator)
        seconds = time.perf_counter() - began
        columns = {
            "estimator": candidate.name,
            "density": result.density,
            "kind": result.kind,
            "setting": candidate.setting,
            "point": range(len(points)),
            "value_nats": result.value.cpu().numpy(),
            "stderr_nats": None if result.stderr is None else result.stderr.cpu().numpy(),
            "reference_nats": (truth(points) if candidate.samples else reference).cpu().numpy(),
            "network_evaluations": result.network_evaluations,
            "seconds_per_point": seconds / len(points),
        }
        tables.append(pd.DataFrame(labels | columns))
    return pd.concat(tables)


def run(sizes: Estimators, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write the table of the mixtures."""
    tables = []
    for dimension in sizes.dimensions:
        mixture = GaussianMixture.random(dimension, 5, seeded(dimension))
        exact = mixture.diffused(SCHEDULE)
        x = mixture.sample(sizes.points, generator=seeded(SEED))
        truth = partial(exact.log_prob, s=SCHEDULE.s_start)
        labels: dict[str, object] = {"target": "mixture", "dimension": dimension}
        tables.append(score(exact, x, mixture.log_prob(x), truth, sizes.budgets, labels))
    artifacts.write_csv(outputs["estimators"], pd.concat(tables))


def _at_points(estimator: Callable[..., LogDensity], **settings: object) -> Estimate:
    def run(model: Model, x: Tensor, generator: torch.Generator) -> tuple[Tensor, LogDensity]:
        return x, estimator(model, x, generator=generator, **settings)

    return run


def _sampled(sampler: Callable[..., tuple[Tensor, LogDensity]], **settings: object) -> Estimate:
    def run(model: Model, x: Tensor, generator: torch.Generator) -> tuple[Tensor, LogDensity]:
        return sampler(model, len(x), event=tuple(x.shape[1:]), generator=generator, dtype=x.dtype, **settings)

    return run
