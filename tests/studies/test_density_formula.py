"""The study `density_formula`: plane distributions, trained networks, digits and their rows; tiny jobs end to end."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor
from torch.distributions import MultivariateNormal

from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.density_formula import planar
from diffusion_density.studies.density_formula.experiments import (
    digit_classes,
    digit_estimates,
    train_digits,
    train_planar,
    weightings,
)
from diffusion_density.studies.density_formula.networks import SCHEDULE, WEIGHTINGS
from diffusion_density.studies.density_formula.sizes import (
    DensityFormulaSizes,
    DigitsEvaluation,
    DigitsJob,
    MeasuringJob,
)
from diffusion_density.studies.shared.targets import normal
from truths import seeded

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def sizes() -> DensityFormulaSizes:
    text = (ROOT / "workflow/scales/smoke.yaml").read_text()
    return DensityFormulaSizes.model_validate(yaml.safe_load(text)["density_formula"])


@pytest.fixture(scope="module")
def models(sizes: DensityFormulaSizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained networks."""
    folder = tmp_path_factory.mktemp("models")
    runs = sizes.runs(SEEDS)
    train_planar.run(runs["planar"], {}, {"models": folder / "planar.safetensors"})
    train_digits.run(runs["digits"], {}, {"models": folder / "digits.safetensors"})
    return folder


@pytest.mark.parametrize("name", planar.NAMES)
def test_a_law_in_the_plane_is_normalised_and_its_samples_follow_it(name: str) -> None:
    distribution = planar.distribution(name)
    cell = 0.75 / 40  # the squares of the board are whole cells: no midpoint lies on an edge, where rounding decides
    axis = cell * (torch.arange(-160, 160, dtype=torch.float64) + 0.5)
    grid = torch.cartesian_prod(axis, axis)
    log_prob = distribution.log_prob(grid)
    mass = log_prob.exp() * cell**2
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-6)
    x = distribution.sample(20_000, generator=seeded(0))
    found = distribution.log_prob(x)
    entropy = -(mass * log_prob)[mass > 0].sum()
    assert abs(found.mean() + entropy) <= 4 * found.std() / len(x) ** 0.5 + 1e-9
    for moment in (lambda p: p, lambda p: p.square(), lambda p: p.prod(1, keepdim=True)):
        expected = (mass[:, None] * moment(grid)).sum(0)
        drawn = moment(x)
        assert ((drawn.mean(0) - expected).abs() < 4.2 * drawn.std(0) / len(x) ** 0.5).all()


def test_the_light_squares_of_the_checkerboard_are_empty() -> None:
    board = planar.Checkerboard()
    side = board.side
    points = side * torch.tensor([[0.5, 0.5], [0.5, 1.5], [-0.5, 0.5], [2.5, 0.5]], dtype=torch.float64)
    assert board.log_prob(points).isfinite().tolist() == [True, False, False, False]


def test_the_simple_loss_of_a_normal_law() -> None:
    """For N(0, I) the exact error is the mean of α² over s, per dimension."""
    model = normal(3).diffused(SCHEDULE)
    x = torch.randn(4000, 3, generator=seeded(0), dtype=torch.float64)
    found = weightings.simple_loss(model, x, 64, seed=1)
    s = torch.linspace(SCHEDULE.s_start, SCHEDULE.s_max, 20_001, dtype=torch.float64)
    expected = 3 * torch.trapezoid(SCHEDULE.alpha(s).square(), s)
    assert abs(found.mean() - expected) < 4 * found.std() / len(x) ** 0.5 + 0.02


def test_networks_in_the_plane_are_measured(sizes: DensityFormulaSizes, models: Path, tmp_path: Path) -> None:
    job = MeasuringJob(run=sizes.runs(SEEDS)["planar"], evaluation=sizes.weightings.evaluation)
    weightings.run(job, {"models": models / "planar.safetensors"}, {"weightings": tmp_path / "w.csv"})
    table = pd.read_csv(tmp_path / "w.csv")
    assert len(table) == len(planar.NAMES) * len(WEIGHTINGS) * len(SEEDS) * 3
    reference = table[table.weighting == "likelihood"]
    assert (reference.excess == 0).all()
    assert (table[table.weighting != "likelihood"].excess != 0).all()
    assert (table[table.measure == "simple_loss"].kl.isna()).all()
    known = table[table.measure != "simple_loss"]
    assert known.kl.notna().all()
    assert (known.kl > -4 * known.kl_stderr).all()


def test_networks_of_other_settings_are_refused(sizes: DensityFormulaSizes, models: Path) -> None:
    with pytest.raises(InputError, match="other settings"):
        train_planar.load(models / "planar.safetensors", sizes.runs((5,))["planar"])


def test_digits_lie_in_their_bins() -> None:
    points = train_digits.held_out(359)
    assert points.x.shape == (359, 64)
    assert points.x.abs().max() < 1
    level = ((points.x + 1) * 17 / 2).floor()
    assert 0 <= level.min() <= level.max() == 16
    assert sorted(set(points.labels.tolist())) == list(range(10))
    with pytest.raises(InputError, match="360 images asked for, there are 359"):
        train_digits.held_out(360)


def test_a_row_is_given_the_rows_above_and_its_place() -> None:
    x = torch.arange(1.0, 129.0).reshape(2, 64)
    row, context = train_digits.row_points(x)
    assert row.shape == (16, 8)
    assert context.shape == (16, 72)
    torch.testing.assert_close(row.reshape(2, 64), x)
    third = context[8 + 2]  # of the second image
    torch.testing.assert_close(third[:16], x[1, :16])
    assert not third[16:64].any()
    assert third[64:].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


class ExactRows:
    """The exact entropy prediction (score + y) of the rows of a normal distribution of images, given the rows above."""

    def __init__(self, covariance: Tensor) -> None:
        self.covariance = covariance

    def __call__(self, y: Tensor, s: Tensor, context: Tensor) -> Tensor:
        out = torch.empty_like(y)
        for r in range(8):
            mine = context[:, 64 + r] == 1
            above, here = slice(0, 8 * r), slice(8 * r, 8 * r + 8)
            gain = torch.linalg.solve(self.covariance[above, above], self.covariance[above, here]).mT
            spread = self.covariance[here, here] - gain @ self.covariance[above, here]
            alpha, sigma = SCHEDULE.alpha(s[mine]), SCHEDULE.sigma(s[mine])
            off = y[mine] - alpha[:, None] * (context[mine][:, above] @ gain.mT)
            total = alpha[:, None, None].square() * spread + sigma[:, None, None].square() * torch.eye(8).to(y)
            out[mine] = y[mine] - torch.linalg.solve(total, off[..., None])[..., 0]
        return out


def test_the_sum_over_rows_is_the_log_density_of_the_image() -> None:
    """A normal distribution with dependent pixels: every row alone would be another density."""
    generator = seeded(2)
    root = 0.3 * torch.eye(64, dtype=torch.float64) + 0.05 * torch.randn(64, 64, generator=generator).double()
    covariance = root @ root.mT
    distribution = MultivariateNormal(torch.zeros(64, dtype=torch.float64), covariance)
    x = (root @ torch.randn(64, 6, generator=generator).double()).mT
    sizes = DigitsEvaluation(
        points=6, nodes=48, throws=16, tolerance=1e-3, steps=10, paths=2, classified=2, class_throws=2
    )
    found = digit_estimates.by_rows(DiffusionModel(ExactRows(covariance), SCHEDULE, "entropy"), x, sizes)
    assert found.stderr is not None
    assert ((found.value - distribution.log_prob(x)).abs() < 4 * found.stderr + 0.02).all()
    alone = MultivariateNormal(torch.zeros(64, dtype=torch.float64), covariance.diag().diag()).log_prob(x)
    assert ((found.value - alone).abs() > 8 * found.stderr).any()


def test_digits_are_estimated_image_by_image(sizes: DensityFormulaSizes, models: Path, tmp_path: Path) -> None:
    evaluation = sizes.digits.evaluation
    job = DigitsJob(run=sizes.runs(SEEDS)["digits"], evaluation=evaluation)
    digit_estimates.run(job, {"models": models / "digits.safetensors"}, {"digit_estimates": tmp_path / "d.csv"})
    table = pd.read_csv(tmp_path / "d.csv")
    assert table.log_prob_nats.notna().all()
    counts = table.groupby(["estimator", "weighting", "seed"]).image.nunique()
    assert (counts == evaluation.points).all()
    assert set(table.estimator) == {"formula", "sum", "chain", "flow", "rows"}
    assert set(table[table.estimator == "flow"].kind) == {"exact"}


def test_digits_are_classified(sizes: DensityFormulaSizes, models: Path, tmp_path: Path) -> None:
    job = DigitsJob(run=sizes.runs(SEEDS)["digits"], evaluation=sizes.digits.evaluation)
    digit_classes.run(job, {"models": models / "digits.safetensors"}, {"digit_classes": tmp_path / "c.csv"})
    table = pd.read_csv(tmp_path / "c.csv")
    assert len(table) == 2 * 2 * len(SEEDS)
    assert table.accuracy.between(0, 1).all()
    assert (table.cross_entropy_nats > 0).all()
    assert math.isfinite(table.calibration_error.sum())
