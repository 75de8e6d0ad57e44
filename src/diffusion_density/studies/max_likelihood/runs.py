"""What the jobs of the study `max_likelihood` need to know: a training run, and the sizes of each measurement.

A *run* trains networks of one arm (prediction, path, density of times) on one image set, one network a seed, and keeps
the averaged weights after several numbers of steps.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffusion_density.networks.sizes import UNetSize
from diffusion_density.studies.fields import Count, Counts, Decay, Positive, Seeds, Several, Strict, Tolerance

Prediction = Literal["score", "entropy", "noise", "velocity"]
Kind = Literal["main", "tuned", "ablation", "predictions", "finetuning"]
DIGITS = "digits"


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
    ema: Decay
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Positive | None = None
    flips: bool = False


class Run(Strict):
    """One training job, fully resolved.

    Attributes:
        kind: what the run is for; see `MaxLikelihoodSizes.runs`.
        dataset: the name of an image set.
        arm: prediction, path and times.
        seeds: of initial weights and of everything drawn; one network each.
        network: its size.
        optimiser: its settings.
        snapshots: steps after which the averaged weights are kept; the last is the end.
        trace_weight: λ of the second-order term.
        origin: the run to go on from; None to start from new weights.
        equal_compute: also go on to as many steps as cost what the second-order steps would.
    """

    kind: Kind = "main"
    dataset: str
    arm: Arm
    seeds: Seeds
    network: UNetSize
    optimiser: Optimiser
    snapshots: Counts
    trace_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    origin: str | None = None
    equal_compute: bool = False

    @model_validator(mode="after")
    def _snapshots_rise(self) -> "Run":
        if list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError("snapshots must rise")
        return self


class Curve(Strict):
    """Test images and throws of the bound along training."""

    images: Several
    throws: Several


class Likelihood(Strict):
    """Test images, the flow's tolerance and the bound's throws at the end of training."""

    images: Several
    tolerance: Tolerance
    throws: Several


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


class DatasetJob(Strict):
    """The image set to describe."""

    dataset: str


class LosslessJob(DatasetJob):
    """The first test images of a set, as many as are coded."""

    count: Count


class DatasetsJob(Strict):
    """The image sets that are absent, by slug, each with how to get it."""

    absent: dict[str, str]


class OfRun(Strict):
    """A job on one run, with the run's name."""

    name: str
    run: Run

    @property
    def dataset(self) -> str:
        """The image set of the run."""
        return self.run.dataset

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the networks."""
        return self.run.seeds


class TrainingJob(OfRun):
    """What `train` does.

    Attributes:
        origin: the run whose networks training continues from; they are the input ``origin``.
        precision: of convolutions; ``auto`` is bfloat16 where the device multiplies in it.
        micro_batch: images that a device takes at once; by default all of its share.
        checkpoint_every: steps between checkpoints.
    """

    origin: Run | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    micro_batch: Count | None = None
    checkpoint_every: Count = 200

    @model_validator(mode="after")
    def _a_run_that_continues_has_its_origin(self) -> "TrainingJob":
        if (self.origin is None) != (self.run.origin is None):
            raise ValueError("origin belongs to a run that goes on from another")
        return self


class LikelihoodJob(OfRun):
    """What `likelihood` measures."""

    evaluation: Evaluation


class SamplesJob(OfRun):
    """What `samples` draws, from the network of the first seed."""

    samples: Samples


class OfRuns(Strict):
    """A measurement of several runs on one image set, by their names; an input of each name holds the networks."""

    runs: Annotated[dict[str, Run], Field(min_length=1)]

    @property
    def dataset(self) -> str:
        """The image set of the runs."""
        return next(iter(self.runs.values())).dataset

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the networks."""
        return next(iter(self.runs.values())).seeds


class CurvesJob(OfRuns):
    """What `curves` measures."""

    curve: Curve


class VarianceJob(OfRuns):
    """What `variance` measures."""

    variance: Variance


class TraceJob(OfRuns):
    """What `trace` measures."""

    trace: Trace


class FindingsJob(Strict):
    """The kind of every run whose results are in the tables."""

    kinds: dict[str, Kind]
