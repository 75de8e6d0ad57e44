"""Every size of the study `comparison`, as a scale file holds them: one class a job."""

from typing import Annotated

from pydantic import Field

from diffusion_density.studies.density_formula.sizes import Training
from diffusion_density.studies.fields import Count, Seeds, Several, Strict, Tolerance

Sixteens = Annotated[int, Field(gt=0, multiple_of=16)]


class Conditional(Strict):
    """Networks of p(x | c), trained on ``samples`` pairs, and how they are measured.

    ``pairs`` test pairs are scored, with ``throws`` by the path integral and ``tolerance`` by the flow. ``calibrated``
    pairs are ranked among ``draws`` samples each. ``classified`` points get the posterior of ``classes`` contexts, with
    each of the ``class_throws``, over ``repeats`` of the noise.
    """

    samples: Count
    training: Training
    pairs: Sixteens
    throws: Sixteens
    tolerance: Tolerance
    calibrated: Several
    draws: Count
    classified: Several
    classes: Several
    class_throws: Annotated[tuple[Sixteens, ...], Field(min_length=1)]
    repeats: Count


class ConditionalRun(Conditional):
    """The job, with its seeds."""

    seeds: Seeds
