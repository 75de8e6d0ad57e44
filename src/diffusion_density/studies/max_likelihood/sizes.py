"""Every size of the study `max_likelihood`, as a scale file holds them, and the runs that they imply.

Runs are named ``main-<set>``, one for each image set; ``ablation-<arm>`` on digits; ``predictions-<prediction>`` on one
set of 32×32 images; and, with the term of second order, ``finetuning-<λ>``, which go on from the digits of the
main arm, and ``tuned-<set>``.
"""

from typing import Annotated

from pydantic import Field, model_validator

from diffusion_density.networks.sizes import UNetSize
from diffusion_density.studies.fields import Count, Counts, Positive, Several, Strict
from diffusion_density.studies.max_likelihood.runs import (
    DIGITS,
    Arm,
    Curve,
    Evaluation,
    Kind,
    Likelihood,
    Optimiser,
    Run,
    Samples,
    Trace,
    Variance,
)


class SecondOrder(Strict):
    """Training that goes on with the trace term."""

    trace_weight: Positive
    steps: Count
    learning_rate: Positive


class Exceptional(Strict):
    """What one image set does differently."""

    network: UNetSize | None = None
    optimiser: Optimiser | None = None
    snapshots: Counts | None = None
    second_order: SecondOrder | None = None


class Main(Strict):
    """The networks of the bits/dim table, one for each image set (the ablations' serve for digits).

    ``threads`` are those of one job; ``second_order`` makes a further run of each, ``tuned-<set>``; ``exceptions`` are
    by the slug of the set.
    """

    arm: Arm
    seeds: Count
    network: UNetSize
    optimiser: Optimiser
    snapshots: Counts
    threads: Count = 1
    second_order: SecondOrder | None = None
    exceptions: dict[str, Exceptional] = Field(default_factory=dict)

    def for_set(self, slug: str) -> "Main":
        """The settings of one image set."""
        own = self.exceptions.get(slug, Exceptional())
        return self.model_copy(update={name: value for name, value in own if value is not None})


class Ablations(Strict):
    """Training on digits of every arm, at a constant learning rate, with all seeds."""

    network: UNetSize
    optimiser: Optimiser
    snapshots: Counts


class Predictions(Strict):
    """Training of every prediction on one set of 32×32 images, with the network of the main runs."""

    dataset: str
    seeds: Count
    optimiser: Optimiser
    snapshots: Counts


class FineTuning(Strict):
    """Second-order training on digits from the main arm's networks; λ = 0 is the control, trained as long."""

    trace_weights: Annotated[tuple[Positive, ...], Field(min_length=1)]
    steps: Count
    learning_rate: Positive


class DequantizationTest(Strict):
    """Test images and importance-weighted draws of the comparison of dequantizations."""

    digits: Several
    images: Several
    draws: Several


class MaxLikelihoodSizes(Strict):
    """The section `max_likelihood` of a scale file."""

    main: Main
    ablations: Ablations
    predictions: Predictions
    finetuning: FineTuning
    curve: Curve
    likelihood: Likelihood
    dequantization: DequantizationTest
    trace: Trace
    variance: Variance
    samples: Samples

    @model_validator(mode="after")
    def _the_main_arm_predicts_velocity(self) -> "MaxLikelihoodSizes":
        if self.main.arm.prediction != "velocity":
            raise ValueError("main.arm.prediction must be velocity: training of second order goes on from it")
        return self

    def runs(self, seeds: tuple[int, ...], datasets: dict[str, str]) -> dict[str, Run]:
        """Every training run, by name.

        Args:
            seeds: of the configuration.
            datasets: the image sets that are there, by slug.
        """
        runs: dict[str, Run] = {}
        for slug, name in datasets.items():
            if slug != DIGITS:
                runs |= self._main_runs(slug, name, seeds[: self.main.seeds])
        for arm in arms():
            runs[f"ablation-{arm.name}"] = Run(
                kind="ablation", dataset=DIGITS, arm=arm, seeds=seeds, **dict(self.ablations)
            )
        for prediction in ("velocity", "noise", "entropy", "score"):
            settings = dict(self.predictions) | {"seeds": seeds[: self.predictions.seeds], "network": self.main.network}
            arm = Arm(prediction=prediction, path="vp", times="importance")
            runs[f"predictions-{prediction}"] = Run(kind="predictions", arm=arm, **settings)
        for weight in (0.0, *self.finetuning.trace_weights):
            steps, rate = self.finetuning.steps, self.finetuning.learning_rate
            tuned = _tuned("finetuning", self.reference, runs[self.reference], weight, steps, rate)
            runs[f"finetuning-{weight:g}"] = tuned.model_copy(update={"equal_compute": weight == 0})
        return runs

    def _main_runs(self, slug: str, name: str, seeds: tuple[int, ...]) -> dict[str, Run]:
        main = self.main.for_set(slug)
        first = Run(
            kind="main",
            dataset=name,
            arm=main.arm,
            seeds=seeds,
            network=main.network,
            optimiser=main.optimiser,
            snapshots=main.snapshots,
        )
        runs = {f"main-{slug}": first}
        if main.second_order:
            runs[f"tuned-{slug}"] = _tuned("tuned", f"main-{slug}", first, **dict(main.second_order))
        return runs

    @property
    def reference(self) -> str:
        """The ablation whose networks are examined further."""
        return f"ablation-{self.main.arm.name}"

    def evaluations(self, runs: dict[str, Run]) -> dict[str, Evaluation]:
        """What is measured at the end of which runs: dequantizations are not compared after fine-tuning."""
        test = self.dequantization
        images: dict[Kind, int] = {"main": test.images, "tuned": test.images, "ablation": test.digits, "finetuning": 0}
        return {
            name: Evaluation(likelihood=self.likelihood, dequantized=count, draws=test.draws)
            for kind, count in images.items()
            for name, run in runs.items()
            if run.kind == kind and (kind != "ablation" or name == self.reference)
        }


def _tuned(kind: Kind, origin: str, run: Run, trace_weight: float, steps: int, learning_rate: float) -> Run:
    """The run that goes on from another with the trace term."""
    changed = {
        "kind": kind,
        "optimiser": run.optimiser.model_copy(update={"learning_rate": learning_rate}),
        "snapshots": (steps,),
        "trace_weight": trace_weight,
        "origin": origin,
    }
    return run.model_copy(update=changed)


def arms() -> list[Arm]:
    """The ablation's arms: two predictions × two paths × two densities of times, and two more predictions."""
    grid = [
        Arm(prediction=prediction, path=path, times=times)
        for prediction in ("velocity", "noise")
        for path in ("vp", "straight")
        for times in ("importance", "uniform")
    ]
    return grid + [Arm(prediction=prediction, path="vp", times="importance") for prediction in ("entropy", "score")]
