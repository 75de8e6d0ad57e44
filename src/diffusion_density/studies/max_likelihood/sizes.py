"""Every size of the study `max_likelihood`, and the runs that the sizes imply.

A *run* trains networks of one arm (prediction, path, density of times) on one image set, one network a seed, and keeps
the averaged weights after several numbers of steps. Runs are named ``main-<set>``, one for each image set;
``ablation-<arm>`` on digits; ``predictions-<prediction>``, short, on one set of 32×32 images; and, with the
term of second order, ``finetuning-<λ>``, which go on from the digits of the main arm, and ``tuned-<set>``.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffusion_density.networks.sizes import UNetSize

Count = Annotated[int, Field(gt=0)]
Several = Annotated[int, Field(gt=1)]  # what a standard error needs
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(ge=1e-6, lt=1)]
Prediction = Literal["score", "entropy", "noise", "velocity"]
DIGITS = "digits"


class Strict(BaseModel):
    """A configuration node: unknown keys are errors, and it can't be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    """What a network predicts, on which path, and the density of the times that it is trained at."""

    prediction: Prediction
    path: Literal["vp", "straight"]
    times: Literal["importance", "uniform"]

    @property
    def name(self) -> str:
        """One word for files."""
        return f"{self.prediction}-{self.path}-{self.times}"


class Optimiser(Strict):
    """AdamW and what goes with it; see `training.loop.ImageTraining`."""

    batch_size: Count
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    cosine: bool
    ema: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Positive | None = None
    flips: bool = False


class Run(Strict):
    """One training job, fully resolved.

    Attributes:
        dataset: the name of an image set.
        arm: prediction, path and times.
        seeds: of initial weights and of everything drawn; one network each.
        network: its size.
        optimiser: its settings.
        snapshots: steps after which the averaged weights are kept; the last is the end.
        trace_weight: λ of the second-order term.
        origin: the run to go on from; None to start anew.
        equal_compute: also go on to as many steps as cost what the second-order steps would.
    """

    dataset: str
    arm: Arm
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    network: UNetSize
    optimiser: Optimiser
    snapshots: Annotated[tuple[Count, ...], Field(min_length=1)]
    trace_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    origin: str | None = None
    equal_compute: bool = False

    @model_validator(mode="after")
    def _snapshots_rise(self) -> "Run":
        if list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError("snapshots must rise")
        return self


class SecondOrder(Strict):
    """Training that goes on with the trace term."""

    trace_weight: Positive
    steps: Count
    learning_rate: Positive


class Exceptional(Strict):
    """What one image set does differently."""

    network: UNetSize | None = None
    optimiser: Optimiser | None = None
    snapshots: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
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
    snapshots: Annotated[tuple[Count, ...], Field(min_length=1)]
    threads: Count = 1
    second_order: SecondOrder | None = None
    exceptions: dict[str, Exceptional] = {}

    def of(self, slug: str) -> "Main":
        """The settings of one image set."""
        own = self.exceptions.get(slug, Exceptional())
        return self.model_copy(update={name: value for name, value in own if value is not None})


class Ablations(Strict):
    """Training on digits of every arm, at a constant learning rate, with all seeds."""

    network: UNetSize
    optimiser: Optimiser
    snapshots: Annotated[tuple[Count, ...], Field(min_length=1)]


class Predictions(Strict):
    """Training of every prediction on one set of 32×32 images, with the network of the main runs."""

    dataset: str
    seeds: Count
    optimiser: Optimiser
    snapshots: Annotated[tuple[Count, ...], Field(min_length=1)]


class FineTuning(Strict):
    """Second-order training on digits from the main arm's networks; λ = 0 is the control, trained as long."""

    trace_weights: Annotated[tuple[Positive, ...], Field(min_length=1)]
    steps: Count
    learning_rate: Positive


class Curve(Strict):
    """Test images and throws of the bound along training."""

    images: Several
    throws: Several


class Likelihood(Strict):
    """Test images, the flow's tolerance and the bound's throws at the end of training."""

    images: Several
    tolerance: Tolerance
    throws: Several


class DequantizationTest(Strict):
    """Test images and importance-weighted draws of the comparison of dequantizations."""

    digits: Several
    images: Several
    draws: Several


class Evaluation(Strict):
    """What is measured of the networks of one run at the end of training."""

    likelihood: Likelihood
    dequantized: Annotated[int, Field(ge=0)] = 0
    draws: Several = 2


class Trace(Strict):
    """Throws at which the exact trace of the Jacobian is compared with what it should be."""

    times: Several
    images: Several


class Variance(Strict):
    """Minibatches at fixed weights."""

    batches: Several
    batch_size: Count


class Samples(Strict):
    """Samples of the flow and the tolerance of its solver."""

    number: Several
    tolerance: Tolerance


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
            runs[f"ablation-{arm.name}"] = Run(dataset=DIGITS, arm=arm, seeds=seeds, **dict(self.ablations))
        for prediction in ("velocity", "noise", "entropy", "score"):
            settings = dict(self.predictions) | {"seeds": seeds[: self.predictions.seeds], "network": self.main.network}
            arm = Arm(prediction=prediction, path="vp", times="importance")
            runs[f"predictions-{prediction}"] = Run(arm=arm, **settings)
        for weight in (0.0, *self.finetuning.trace_weights):
            second = SecondOrder.model_construct(
                trace_weight=weight, steps=self.finetuning.steps, learning_rate=self.finetuning.learning_rate
            )
            tuned = _tuned(self.reference, runs[self.reference], second)
            runs[f"finetuning-{weight:g}"] = tuned.model_copy(update={"equal_compute": weight == 0})
        return runs

    def _main_runs(self, slug: str, name: str, seeds: tuple[int, ...]) -> dict[str, Run]:
        main = self.main.of(slug)
        first = Run(
            dataset=name,
            arm=main.arm,
            seeds=seeds,
            network=main.network,
            optimiser=main.optimiser,
            snapshots=main.snapshots,
        )
        runs = {f"main-{slug}": first}
        if main.second_order:
            runs[f"tuned-{slug}"] = _tuned(f"main-{slug}", first, main.second_order)
        return runs

    @property
    def reference(self) -> str:
        """The ablation whose networks are examined further."""
        return f"ablation-{self.main.arm.name}"

    def evaluations(self, runs: dict[str, Run]) -> dict[str, Evaluation]:
        """What is measured at the end of which runs: dequantizations are not compared after fine-tuning."""
        test = self.dequantization
        return {
            name: Evaluation(likelihood=self.likelihood, dequantized=count, draws=test.draws)
            for prefix, count in (
                ("main-", test.images),
                ("tuned-", test.images),
                (self.reference, test.digits),
                ("finetuning-", 0),
            )
            for name in runs
            if name.startswith(prefix)
        }


def _tuned(origin: str, run: Run, second: SecondOrder) -> Run:
    """The run that goes on from another with the trace term."""
    changed = {
        "optimiser": run.optimiser.model_copy(update={"learning_rate": second.learning_rate}),
        "snapshots": (second.steps,),
        "trace_weight": second.trace_weight,
        "origin": origin,
    }
    return run.model_copy(update=changed)


def arms() -> list[Arm]:
    """The ablation's arms: two predictions × two paths × two densities of times, and paper A's two predictions."""
    grid = [
        Arm(prediction=prediction, path=path, times=times)
        for prediction in ("velocity", "noise")
        for path in ("vp", "straight")
        for times in ("importance", "uniform")
    ]
    return grid + [Arm(prediction=prediction, path="vp", times="importance") for prediction in ("entropy", "score")]
