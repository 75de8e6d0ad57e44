r"""Both estimators compared with each other and with the truth, and an identity that must hold.

*Points* (one row per point): log p of the mixture and of the trained flow, and the bound of the path integral on the
SDE, for the same network. *Identity* (one row per side): on each trained network,

.. math:: E_p[\log p - \text{bound}] = KL(p_T\|\text{prior}) + \int \tfrac12 g^2 E_p\|a - \nabla\log p_s\|^2 ds
          = KL(p_T\|\text{prior}) + \text{loss} - \text{its minimum},

each side by draws of its own.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.machine import artifacts
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.density_estimators import divergences
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import SCHEDULE, load, places
from diffusion_density.studies.density_estimators.sizes import Agreement, AgreementJob
from diffusion_density.studies.shared.seeds import seeded

TOLERANCE = 1e-5
THROWS_PER_POINT = 2  # of the identity's path integral: many points serve a mean better than many throws


def run(sizes: AgreementJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Measure the networks of a run's last checkpoint and write both tables.

    Raises:
        InputError: if a file does not fit the run.
    """
    agreement = sizes.agreement
    mixtures, _ = data.load(inputs["dataset"], sizes.run)
    checkpoint = load(inputs["models"], sizes.run)[-1]
    tables: list[pd.DataFrame] = []
    sides: list[dict[str, object]] = []
    for index, place in enumerate(tqdm(places(sizes.run), desc="agreement", unit="network")):
        mixture, model = mixtures[place.mixture], checkpoint.model(index)
        generator = seeded(1_000, index)
        if place.seed == sizes.run.seeds[0]:
            table = _points(model, mixture, agreement, generator)
            tables.append(table.assign(**place.columns()))
        for side, kl in _identity(model, mixture, agreement.identity_draws, generator).items():
            sides.append({**place.columns(), "side": side, "kl_nats": kl.value, "kl_stderr_nats": kl.stderr})
    artifacts.write_csv(outputs["agreement"], pd.concat(tables))
    artifacts.write_csv(outputs["identity"], pd.DataFrame(sides))


def _points(
    model: DiffusionModel, mixture: GaussianMixture, agreement: Agreement, generator: torch.Generator
) -> pd.DataFrame:
    x = mixture.sample(agreement.points, generator=generator, dtype=torch.float32)
    ode = flow(model, x, rtol=TOLERANCE, atol=TOLERANCE)
    integral = path_integral(model, x, throws=agreement.throws, generator=generator)
    assert integral.stderr is not None
    columns = {
        "log_prob_nats": mixture.log_prob(x.double()),
        "flow_nats": ode.value,
        "path_integral_nats": integral.value,
        "path_integral_stderr_nats": integral.stderr,
    }
    return pd.DataFrame({"point": range(len(x))} | {name: value.numpy() for name, value in columns.items()})


def _identity(
    model: DiffusionModel, mixture: GaussianMixture, draws: int, generator: torch.Generator
) -> dict[str, divergences.Mean]:
    """The three sides, each from ``draws`` network evaluations of its own."""
    prior = divergences.prior_mismatch(mixture.diffused(SCHEDULE), draws, generator)
    x = mixture.sample(draws // THROWS_PER_POINT, generator=generator, dtype=torch.float32)
    truth = mixture.log_prob(x.double())
    integral = divergences.by_path_integral(model, x, truth, THROWS_PER_POINT, generator)
    error = divergences.score_error(model, divergences.Diffused.draw(mixture, SCHEDULE, draws, generator))
    loss = divergences.loss_difference(model, divergences.Diffused.draw(mixture, SCHEDULE, draws, generator))
    return {"path_integral": integral, "score_error": prior + error, "loss_difference": prior + loss}
