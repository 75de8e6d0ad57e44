"""Every size of the study `density_estimators`, and the runs that the sizes imply.

A *run* trains one stack of networks of equal shape: every arm (prediction, weighting, skip) times every mixture times
every seed, at one dimension D, number of samples N and number of throws n_t. Its networks are saved at several
*checkpoints*, counted in epochs n_ep (passes over the N samples); fractions of an epoch are allowed. Training with
n_t throws for n_ep epochs costs C = N n_t n_ep network evaluations.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffusion_density.networks.sizes import MLPSize
from diffusion_density.studies.fields import Count, Counts, Decay, Positive, Seeds, Several, Strict, Tolerance

Prediction = Literal["score", "entropy", "noise"]
SweepName = Literal["throws", "objectives", "samples", "dimensions"]
Weighting = Literal["unit", "likelihood"]


class Arm(Strict):
    """What a network predicts and how its loss is weighted; `skip` adds the fixed output -y."""

    prediction: Prediction
    weighting: Weighting = "unit"
    skip: bool = False


class Optimiser(Strict):
    """Adam with a constant learning rate; `ema` is the decay of the averaged weights, 0 for none."""

    batch_size: Count
    learning_rate: Positive
    ema: Decay


class TrainingRun(Strict):
    """One training job, fully resolved; `experiment` is the table that its results are rows of."""

    experiment: SweepName
    dimension: Count
    samples: Count
    throws: Count
    checkpoints: Annotated[tuple[Positive, ...], Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    mixtures: Count
    seeds: Seeds
    network: MLPSize
    optimiser: Optimiser

    @property
    def evaluations(self) -> float:
        """Network evaluations of the training of all its networks."""
        networks = len(self.arms) * self.mixtures * len(self.seeds)
        return networks * self.samples * self.throws * max(self.checkpoints)


class Dataset(Strict):
    """Random mixtures of one dimension, with `samples` training points each."""

    dimension: Count
    mixtures: Count
    samples: Count
    components: Count


class Evaluation(Strict):
    """Fresh test points per network, throws per point of each estimator, and the flow's tolerance."""

    points: Count
    throws: Several
    flow_points: Count
    tolerance: Tolerance
    score_error_throws: Count


class Throws(Strict):
    """Experiments 1 and 4: KL against throws, at equal epochs and at equal network evaluations, and the joint grid.

    `equal_epochs` is the n_ep of the paper's comparison; `equal_evaluations` is n_t n_ep at which budgets are matched;
    `grid` lists further checkpoints, kept where n_t n_ep stays within `budget`. Counts above `many` use one mixture.
    """

    values: Counts
    equal_epochs: Positive
    equal_evaluations: Positive
    grid: tuple[Positive, ...]
    budget: Positive
    many: Count


class Objectives(Strict):
    """Experiments 2 and 3: KL against epochs for the skip control, noise prediction and the likelihood weighting.

    The arms of the default throws, with unit weighting, are those of the run ``throws-<throws_default>``.
    """

    checkpoints: Annotated[tuple[Positive, ...], Field(min_length=1)]


class Sweep(Strict):
    """One swept size (N or D), at the default throws and epochs; the default size is in ``throws-<throws_default>``.

    The sweep uses the first ``mixtures`` mixtures of each dimension.
    """

    mixtures: Count
    values: Counts


class Timing(Strict):
    """Experiment 5: points timed one by one, repeats of every run, throws and tolerances of the trade-off."""

    points: Count
    batch: Count
    throws: Annotated[tuple[Several, ...], Field(min_length=1)]
    tolerances: Annotated[tuple[Positive, ...], Field(min_length=1)]
    repeats: Count


class Agreement(Strict):
    """Experiment 6: points and throws of the per-point agreement, draws of the three sides of the identity."""

    points: Count
    throws: Several
    identity_draws: Count


class OfRun(Strict):
    """A measurement of the networks of one run."""

    run: TrainingRun

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the networks."""
        return self.run.seeds


class EvaluationJob(OfRun):
    """What `evaluate` measures."""

    evaluation: Evaluation


class TimingJob(OfRun):
    """What `timing` measures."""

    timing: Timing


class AgreementJob(OfRun):
    """What `agreement` measures."""

    agreement: Agreement


class DensityEstimatorsSizes(Strict):
    """The section `density_estimators` of a scale file."""

    dimension: Count
    samples: Count
    throws_default: Count
    epochs: Positive
    components: Count
    mixtures: Count
    network: MLPSize
    optimiser: Optimiser
    evaluation: Evaluation
    throws: Throws
    objectives: Objectives
    samples_sweep: Sweep
    dimensions_sweep: Sweep
    timing: Timing
    agreement: Agreement

    @model_validator(mode="after")
    def _default_throws_are_trained(self) -> "DensityEstimatorsSizes":
        if self.throws_default not in self.throws.values or self.throws_default > self.throws.many:
            raise ValueError(
                "throws_default must be among throws.values and not above throws.many: timing and agreement use the "
                "networks of that run"
            )
        return self

    @model_validator(mode="after")
    def _sweeps_use_mixtures_that_exist(self) -> "DensityEstimatorsSizes":
        if max(self.samples_sweep.mixtures, self.dimensions_sweep.mixtures) > self.mixtures:
            raise ValueError("samples_sweep.mixtures and dimensions_sweep.mixtures must not exceed mixtures")
        return self

    @property
    def detailed(self) -> str:
        """The run whose networks are timed and compared in detail."""
        return f"throws-{self.throws_default}"

    def datasets(self) -> dict[int, Dataset]:
        """The data set of every dimension used, keyed by dimension."""
        largest = max(self.samples, *self.samples_sweep.values)
        return {
            dimension: Dataset(
                dimension=dimension,
                mixtures=self.mixtures,
                samples=largest if dimension == self.dimension else self.samples,
                components=self.components,
            )
            for dimension in sorted({self.dimension, *self.dimensions_sweep.values})
        }

    def runs(self, seeds: tuple[int, ...]) -> dict[str, TrainingRun]:
        """Every training run of the study, by its name `experiment-value`."""
        pair = (Arm(prediction="entropy"), Arm(prediction="score"))
        common = {
            "dimension": self.dimension,
            "samples": self.samples,
            "throws": self.throws_default,
            "checkpoints": (self.epochs,),
            "arms": pair,
            "mixtures": self.mixtures,
            "seeds": seeds,
            "network": self.network,
            "optimiser": self.optimiser,
        }
        unusual = (Arm(prediction="score", skip=True), Arm(prediction="noise"))
        weighted = tuple(arm.model_copy(update={"weighting": "likelihood"}) for arm in pair)
        runs: dict[str, dict[str, object]] = {
            "objectives-all": {
                "experiment": "objectives",
                "checkpoints": self.objectives.checkpoints,
                "arms": unusual + weighted,
            }
        }
        for n in self.throws.values:
            run: dict[str, object] = {"experiment": "throws", "throws": n, "checkpoints": self._checkpoints(n)}
            if n <= self.throws.many:
                runs[f"throws-{n}"] = run
            else:  # long: one job an arm, so that they run side by side
                runs |= {f"throws-{n}-{arm.prediction}": run | {"arms": (arm,), "mixtures": 1} for arm in pair}
        for n in self.samples_sweep.values:
            if n != self.samples:
                runs[f"samples-{n}"] = {"experiment": "samples", "samples": n, "mixtures": self.samples_sweep.mixtures}
        for d in self.dimensions_sweep.values:
            if d != self.dimension:
                runs[f"dimensions-{d}"] = {
                    "experiment": "dimensions",
                    "dimension": d,
                    "mixtures": self.dimensions_sweep.mixtures,
                }
        return {name: TrainingRun.model_validate(common | changed) for name, changed in runs.items()}

    def _checkpoints(self, throws: int) -> tuple[float, ...]:
        affordable = {epochs for epochs in self.throws.grid if throws * epochs <= self.throws.budget}
        return tuple(sorted({self.throws.equal_epochs, self.throws.equal_evaluations / throws} | affordable))
