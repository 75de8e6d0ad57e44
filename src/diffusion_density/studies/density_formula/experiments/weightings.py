r"""What the weighting of the loss costs (Li and Yan 2024, section 4.1), in the plane, where the truth is known.

Three weightings of the error of the noise prediction, as densities in log-SNR λ: likelihood (1, what the density
formula integrates), unit (the simple loss of DDPM, uniform in s), and sigmoid(2 − λ). All of them have the same
minimiser where the network is free at each time; a network of finite size spends its capacity where its weighting says.
Networks of equal seed start alike and see the same minibatches and throws.

For every network the table holds minus the density formula (the negative ELBO, which bounds the negative log likelihood
of the reverse SDE), minus the log density of the flow, both in nats, and the simple loss: all on the same test points
with the same noise. ``excess`` is the difference of a loss from that of the likelihood weighting, ``kl`` that from the
truth, both paired by test point.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.formula import formula, squared_errors
from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.batches import ROWS_PER_CALL
from diffusion_density.process.model import DiffusionModel, Model
from diffusion_density.studies.density_formula import planar
from diffusion_density.studies.density_formula.experiments import train_planar as planar_networks
from diffusion_density.studies.density_formula.networks import PREDICTION, SCHEDULE, WEIGHTINGS
from diffusion_density.studies.density_formula.sizes import Evaluation, MeasuringJob
from diffusion_density.studies.shared.seeds import seeded

_TEST_STREAM = 104_729


def run(sizes: MeasuringJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Measure every network and write one table: one row per network and measure.

    Raises:
        InputError: if the file of networks does not fit the run.
    """
    rows: list[dict[str, object]] = []
    for name, networks in tqdm(
        planar_networks.load(inputs["models"], sizes.run).items(), desc="weightings", unit="distribution"
    ):
        rows += _measured(name, networks, sizes.run.seeds, sizes.evaluation)
    artifacts.write_csv(outputs["weightings"], pd.DataFrame(rows))


def _measured(name: str, networks: MLP, seeds: Sequence[int], sizes: Evaluation) -> list[dict[str, object]]:
    generator = seeded(_TEST_STREAM, planar.NAMES.index(name))
    target = planar.distribution(name)
    x = target.sample(sizes.points, generator=generator)
    truth = -target.log_prob(x)
    x, noise_seed = x.float(), int(torch.randint(2**31, (), generator=generator))
    together = DiffusionModel(networks.side_by_side(), SCHEDULE, PREDICTION)
    flows = flow(together, x.repeat(len(networks.skip), 1), rtol=sizes.tolerance, atol=sizes.tolerance)
    losses: dict[tuple[str, str, int], Tensor] = {}
    for index, values in enumerate((-flows.value).double().split(len(x))):
        weighting, seed = WEIGHTINGS[index // len(seeds)], seeds[index % len(seeds)]
        model = DiffusionModel(networks[index], SCHEDULE, PREDICTION)
        bound = formula(
            model,
            x,
            rule="quadrature",
            steps=sizes.nodes,
            throws=sizes.throws,
            generator=seeded(noise_seed),
        )
        losses["formula", weighting, seed] = -bound.value
        losses["flow", weighting, seed] = values
        losses["simple_loss", weighting, seed] = simple_loss(model, x, sizes.nodes * sizes.throws, noise_seed)
    rows = []
    for (measure, weights, seed), loss in losses.items():
        row: dict[str, object] = {"target": name, "weighting": weights, "seed": seed, "measure": measure}
        row["unit"] = "squared error" if measure == "simple_loss" else "nats"
        against = {"loss": loss, "excess": loss - losses[measure, "likelihood", seed]}
        if measure != "simple_loss":
            against["kl"] = loss - truth
        rows.append(row | _means(against))
    return rows


def simple_loss(model: Model, x: Tensor, count: int, seed: int) -> Tensor:
    """E‖ε − ε̂‖² over s uniform on [s_start, s_max], (B,), from ``count`` stratified times, the same for every point."""
    generator = seeded(seed)
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    s = SCHEDULE.s_start + (SCHEDULE.s_max - SCHEDULE.s_start) * u
    losses = []
    with torch.inference_mode():
        for points in x.split(max(1, ROWS_PER_CALL // count)):
            noise = torch.randn(len(points), count, *x.shape[1:], generator=generator, dtype=x.dtype)
            losses.append(squared_errors(model, points, s, noise).mean(1))
    return torch.cat(losses).clone()


def _means(columns: dict[str, Tensor]) -> dict[str, float]:
    """The mean of each column and its standard error."""
    row: dict[str, float] = {}
    for name, values in columns.items():
        row |= {name: values.mean().item(), f"{name}_stderr": values.std().item() / len(values) ** 0.5}
    return row
