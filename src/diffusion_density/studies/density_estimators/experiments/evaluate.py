"""The KL divergence of every network of a run, at every checkpoint, by every estimator.

Test points are fresh, and the same for all networks of one mixture, so that arms and checkpoints are compared on equal
terms. One row of the table is one network at one checkpoint by one estimator.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from diffusion_density.density.ode.flow import flow
from diffusion_density.machine import artifacts
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import DiffusionModel, GaussianPrior
from diffusion_density.studies.density_estimators import divergences
from diffusion_density.studies.density_estimators.divergences import Mean
from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import SCHEDULE, load, places
from diffusion_density.studies.density_estimators.sizes import Evaluation, EvaluationJob
from diffusion_density.studies.shared.seeds import seeded

_STREAM = 7_919  # test draws: a stream of their own for each mixture
PRIOR_DRAWS = 100_000


class _Test:
    """Fresh points of a mixture with their exact log density, and what all its networks share."""

    def __init__(self, mixture: GaussianMixture, index: int, evaluation: Evaluation) -> None:
        self.generator = seeded(_STREAM * (1 + index), mixture.dimension)
        self.x = mixture.sample(evaluation.points, generator=self.generator, dtype=torch.float32)
        self.truth = mixture.log_prob(self.x.double())
        self.untrained = (self.truth - GaussianPrior(1.0).log_prob(self.x.double())).mean().item()
        self.prior = divergences.prior_mismatch(mixture.diffused(SCHEDULE), PRIOR_DRAWS, self.generator)
        count = evaluation.points * evaluation.score_error_throws
        self.draws = divergences.Diffused.draw(mixture, SCHEDULE, count, self.generator)


def run(sizes: EvaluationJob, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Measure the networks of a run and write one table. Points at which the flow failed are counted, not hidden.

    Raises:
        InputError: if a file does not fit the run.
    """
    trained, evaluation = sizes.run, sizes.evaluation
    mixtures, _ = data.load(inputs["dataset"], trained)
    tests = [_Test(mixture, index, evaluation) for index, mixture in enumerate(mixtures)]
    order = places(trained)
    each = len(order) // len(trained.arms)
    rows: list[dict[str, object]] = []
    checkpoints = load(inputs["models"], trained)
    with tqdm(total=len(checkpoints) * len(order), desc=outputs["table"].stem, unit="network", mininterval=1) as bar:
        for checkpoint in checkpoints:
            for arm in range(len(trained.arms)):
                indices = range(arm * each, (arm + 1) * each)
                flows = _flows(checkpoint.together(arm), [tests[order[i].mixture] for i in indices], evaluation)
                for index, ode in zip(indices, flows, strict=True):
                    test = tests[order[index].mixture]
                    common = {
                        "experiment": trained.experiment,
                        "dimension": trained.dimension,
                        "samples": trained.samples,
                        "throws": trained.throws,
                        "epochs": checkpoint.epochs,
                        "training_evaluations": round(trained.samples * trained.throws * checkpoint.epochs),
                        **order[index].columns(),
                        "untrained_kl_nats": test.untrained,
                    }
                    measured = [*_sde(checkpoint.model(index), test, evaluation), ode]
                    rows += [common | row for row in measured]
                    bar.update()
    artifacts.write_csv(outputs["table"], pd.DataFrame(rows))


def _sde(model: DiffusionModel, test: _Test, evaluation: Evaluation) -> list[dict[str, object]]:
    """The KL bound of the reverse SDE, from the known score and from the path integral alone."""
    error = divergences.score_error(model, test.draws) + test.prior
    integral = divergences.by_path_integral(model, test.x, test.truth, evaluation.throws, test.generator)
    return [
        _row("score_error", "sde", "upper", error, evaluation.score_error_throws),
        _row("path_integral", "sde", "upper", integral, evaluation.throws),
    ]


def _flows(model: DiffusionModel, tests: list[_Test], evaluation: Evaluation) -> list[dict[str, object]]:
    """The KL of the flow of every network of one arm, by one solve of all of them."""
    count = evaluation.flow_points
    x = torch.cat([test.x[:count] for test in tests])
    result = flow(model, x, rtol=evaluation.tolerance, atol=evaluation.tolerance)
    assert result.status is not None
    rows = []
    for test, values, status in zip(tests, result.value.split(count), result.status.split(count), strict=True):
        good = status == 0
        kl = Mean.of((test.truth[:count] - values)[good])
        rows.append(_row("flow", "flow", "exact", kl, result.network_evaluations, int((~good).sum())))
    return rows


def _row(estimator: str, density: str, kind: str, kl: Mean, evaluations: int, failed: int = 0) -> dict[str, object]:
    return {
        "estimator": estimator,
        "density": density,
        "kind": kind,
        "kl_nats": kl.value,
        "kl_stderr_nats": kl.stderr,
        "network_evaluations": evaluations,
        "failed_points": failed,
    }
