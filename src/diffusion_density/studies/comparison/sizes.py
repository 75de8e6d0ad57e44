"""Every size of the study `comparison`, as a scale file holds them: one class a job."""

from typing import Annotated

from pydantic import Field

from diffusion_density.studies.density_estimators.sizes import OfRun
from diffusion_density.studies.density_formula.sizes import Training
from diffusion_density.studies.fields import Count, Counts, Seeds, Several, Strict, Tolerance
from diffusion_density.studies.max_likelihood.runs import OfRun as OfImageRun

CONDITIONAL_TABLES = (
    "conditional",
    "conditional_log_probs",
    "conditional_ranks",
    "conditional_calibration",
    "conditional_classes",
)
"""What the job `conditional` writes, in order."""

Throws = Annotated[int, Field(gt=0, multiple_of=16)]
SeveralThrows = Annotated[tuple[Throws, ...], Field(min_length=1)]


class Budgets(Strict):
    """What each estimator may spend: its settings, from the cheapest to the most expensive.

    ``tolerances`` are the flow's, ``probes`` those of its Hutchinson form at the middle tolerance; ``throws`` are the
    path integral's; ``noises`` the draws at each of 32 times of the formula's quadrature; ``steps`` those of the sums,
    of the chain and of tracking.
    """

    tolerances: Annotated[tuple[Tolerance, ...], Field(min_length=1)]
    probes: Counts
    throws: SeveralThrows
    noises: Annotated[tuple[Annotated[int, Field(ge=4, multiple_of=2)], ...], Field(min_length=1)]
    steps: Annotated[tuple[Several, ...], Field(min_length=1)]


class Estimators(Strict):
    """Dimensions of the mixtures, and points of each."""

    dimensions: Counts
    points: Several
    budgets: Budgets


class Variance(Strict):
    """Mixtures in three dimensions and in many, and runs of the two path integrals at the same points."""

    mixtures: Several
    dimension: Count
    throws: SeveralThrows
    points: Several
    repeats: Several


class Trained(Strict):
    """Points of a network of `density_estimators`, the variance's points, throws and repeats."""

    points: Several
    budgets: Budgets
    throws: Throws
    repeats: Several


class Images(Strict):
    """Images for a network of `max_likelihood`, all estimators' budgets, and the variance's images, throws and repeats.

    The reference is a flow in double precision with ``probes``.
    """

    images: Several
    probes: Several
    budgets: Budgets
    varied: Several
    throws: Throws
    repeats: Several


class Conditional(Strict):
    """Networks of p(x | c), trained on ``samples`` pairs, and how they are measured.

    ``pairs`` test pairs are scored, with ``throws`` by the path integral and ``tolerance`` by the flow. ``calibrated``
    pairs are ranked among ``draws`` samples each. ``classified`` points get the posterior of ``classes`` contexts, with
    each of the ``class_throws``, over ``repeats`` of the noise.
    """

    samples: Count
    training: Training
    pairs: Several
    throws: Throws
    tolerance: Tolerance
    calibrated: Several
    draws: Count
    classified: Several
    classes: Several
    class_throws: SeveralThrows
    repeats: Count


class ConditionalRun(Conditional):
    """The job, with its seeds."""

    seeds: Seeds


class TrainedJob(OfRun):
    """The run of `density_estimators` whose first network is measured, and how."""

    trained: Trained


class ImagesJob(OfImageRun):
    """The run whose network of the first seed is measured, and how."""

    images: Images


class ComparisonSizes(Strict):
    """The section `comparison` of a scale file."""

    estimators: Estimators
    variance: Variance
    trained: Trained
    images: Images
    conditional: Conditional

    def jobs(self, seeds: tuple[int, ...]) -> dict[str, Strict]:
        """The sizes of the jobs without inputs."""
        return {
            "estimators": self.estimators,
            "variance": self.variance,
            "conditional": ConditionalRun(**dict(self.conditional), seeds=seeds),
        }
