"""What the jobs of the study `max_likelihood` are told, fully resolved: a training run, and the sizes of measurements.

A *run* trains networks of one arm (prediction, path, density of times) on one image set, one network a seed, and keeps
the averaged weights after several numbers of steps.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from diffusion_density.networks.sizes import UNetSize
from diffusion_density.studies.fields import Count, Counts, Decay, Positive, Seeds, Several, Strict, Tolerance

Prediction = Literal["score", "entropy", "noise", "velocity"]
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
