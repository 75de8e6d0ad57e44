r"""The discrete formulas on chains of T steps (Li and Yan 2024), compared with log p of a mixture in one dimension.

For each schedule, number of steps and rule (``sum``, the paper's; ``trapezoid`` in log-SNR) the error is
log p(x) − formula(x) in nats, with every expectation by Gauss–Hermite. Its mean over x ~ p₀ is

.. math:: E[\log p - \text{sum}] = \underbrace{E[\log p(x_0)] - E[\log p_{\beta_1}(x_1)]}_{\text{truncation}}
          + \sum_{t=2}^T E\, KL\big(q(x_{t-1} | x_t)\,\|\,N(\mu_t, \tilde\beta_t I)\big)

and `density.formula_gap` predicts the second part. The table's ``predicted_sharp_nats`` is that prediction plus the
truncation, so that it stands for the whole mean gap; ``predicted_quadratic_nats`` is ¼ Σ E‖L_t‖²
alone. In the mean over the data the exact prediction ε̂ = E[ε | x_t] has E‖ε − ε̂‖² = d − E‖ε̂‖², a quadrature over p_t.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import stdtrit
from scipy.stats import linregress
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.formula import Rule, expectation, time_nodes
from diffusion_density.machine import artifacts
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.mixtures import ExactModel
from diffusion_density.process.schedules import Discrete
from diffusion_density.process.schedules import discrete as discrete_schedules
from diffusion_density.studies.density_formula.formula_gap import mixture_nodes, predicted_gap
from diffusion_density.studies.density_formula.sizes import Discretisation
from diffusion_density.studies.shared.tables import groups
from diffusion_density.studies.shared.targets import one_dimensional_mixture

SCHEDULES: dict[str, Callable[[int], Discrete]] = {
    "paper": discrete_schedules.paper,
    "linear": discrete_schedules.linear,
    "cosine": discrete_schedules.cosine,
    "uniform_log_snr": discrete_schedules.uniform_log_snr,
}
RULES: tuple[Rule, ...] = ("sum", "trapezoid")
POINTS = (-2.5, -1.5, -0.5, 0.0, 0.5, 1.0, 2.0)  # of the largest errors
DATA_NODES = 200  # Gauss–Hermite, for each component of p_t
ASYMPTOTIC = 100  # steps from which on the slopes are fitted


def run(sizes: Discretisation, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Write one row for each schedule, number of steps and rule, and the slopes fitted to them.

    Columns: ``mean_gap_nats`` over x ~ p₀, ``max_error_nats`` over `POINTS` in absolute value, the two predictions (of
    the sum alone), and ``truncation_nats``, what starting at β₁ costs in the mean.

    Raises:
        InputError: if a schedule can't have so few steps.
    """
    cases = [(name, steps) for name in SCHEDULES for steps in sizes.steps]
    rows = [row for case in tqdm(cases, desc="discretisation", unit="chain") for row in _rows(*case)]
    table = pd.DataFrame(rows)
    artifacts.write_csv(outputs["discretisation"], table)
    artifacts.write_csv(outputs["slopes"], slopes(table))


def _rows(name: str, steps: int) -> list[dict[str, object]]:
    mixture, schedule = one_dimensional_mixture(), SCHEDULES[name](steps)
    exact, times = mixture.diffused(schedule), schedule.steps
    clean, weight = mixture_nodes(mixture, torch.ones(1).double(), torch.zeros(1).double(), DATA_NODES)
    y, _ = mixture_nodes(mixture, schedule.alpha(times), schedule.sigma(times), DATA_NODES)
    data = weight @ mixture.log_prob(clean.T)
    start, end = (weight @ exact.log_prob(y[[step]].T, times[step]) for step in (0, -1))
    noise = _noise(exact, y.reshape(-1, 1), times.repeat_interleave(len(weight))).reshape(y.shape)
    errors = 1 - noise.square() @ weight
    predicted, truncation = predicted_gap(mixture, schedule), (data - start).item()
    points = torch.tensor(POINTS, dtype=torch.float64)[:, None]
    entropy = 0.5 * (1 + math.log(2 * math.pi * schedule.at(schedule.s_max)[1] ** 2))
    rows = []
    for rule in RULES:
        nodes = time_nodes(schedule, rule, steps)
        mean = nodes.offset + entropy + end - nodes.weights @ errors[-len(nodes.weights) :]
        error = mixture.log_prob(points) - expectation(exact, points, rule=rule)
        known = rule == "sum"
        rows.append(
            {
                "schedule": name,
                "steps": steps,
                "rule": rule,
                "mean_gap_nats": (data - mean).item(),
                "max_error_nats": error.abs().max().item(),
                "predicted_quadratic_nats": predicted.quadratic if known else np.nan,
                "predicted_sharp_nats": predicted.sharp + truncation if known else np.nan,
                "truncation_nats": truncation,
            }
        )
    return rows


def _noise(exact: ExactModel, y: Tensor, s: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat(
            [exact.noise(*part) for part in zip(y.split(ROWS_PER_CALL), s.split(ROWS_PER_CALL), strict=True)]
        )


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes of log error over log T from T = 100 on, by least squares, for each schedule and rule.

    Args:
        table: what `measure` wrote.

    Returns:
        A row a fit: schedule, rule, ``quantity`` (``mean_gap`` of the sum, whose sign is known; ``max_error`` of both),
        ``per_log_squared`` (whether the error was divided by log² T before: for the sum, both), ``slope``, and its
        ``slope_stderr`` and 95 % interval by Student's t, NaN where two or three numbers of steps are too few.
    """
    rows = []
    for (schedule, rule), part in groups(table[table["steps"] >= ASYMPTOTIC], "schedule", "rule"):
        steps = part["steps"].to_numpy(dtype=np.float64)
        for quantity in ("mean_gap", "max_error") if rule == "sum" else ("max_error",):
            for divided in (False, True) if rule == "sum" else (False,):
                errors = np.log(part[f"{quantity}_nats"].to_numpy()) - (2 * np.log(np.log(steps)) if divided else 0)
                fit = linregress(np.log(steps), errors) if len(steps) > 1 else None
                slope = fit.slope if fit else np.nan
                stderr = fit.stderr if fit and len(steps) > 2 else np.nan
                half = stdtrit(len(steps) - 2, 0.975) * stderr
                rows.append(
                    {
                        "schedule": schedule,
                        "rule": rule,
                        "quantity": quantity,
                        "per_log_squared": divided,
                        "slope": slope,
                        "slope_stderr": stderr,
                        "ci_low": slope - half,
                        "ci_high": slope + half,
                    }
                )
    return pd.DataFrame(rows)
