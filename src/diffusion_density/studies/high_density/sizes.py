"""Every size of the study `high_density`, as a scale file holds them: one class a job."""

from typing import Annotated

from pydantic import Field

from diffusion_density.studies.fields import Count, Counts, Levels, Positive, Several, Strict
from diffusion_density.studies.max_likelihood.runs import OfRun

Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)]
Quantiles = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]


class Tracking(Strict):
    """Samples whose density is tracked with the exact score, at each stochasticity κ and number of steps."""

    samples: Several
    stochasticities: Levels
    steps: Counts


class Bias(Strict):
    """Sizes ε of the score's error, samples and steps of tracking, the grid of the truth, and the chains' steps."""

    sizes: Levels
    samples: Several
    steps: Count
    cells: Count
    grid_steps: Count
    chain_steps: Annotated[tuple[Several, ...], Field(min_length=1)]
    chain_samples: Several
    paths: Several


class Modes(Strict):
    """Log-SNRs and places of noisy points whose mode is tracked; samples of high density in a high dimension."""

    log_snrs: Numbers
    places: Numbers
    steps: Count
    dimension: Count
    thresholds: Numbers
    samples: Several


class Guidance(Strict):
    """Dimensions, quantiles, noise and steps of density guidance."""

    dimensions: Counts
    quantiles: Quantiles
    stochasticity: Positive
    samples: Several
    steps: Count


class Cost(Strict):
    """Samples, dimension and steps at which tracking along the flow and along the SDE are compared."""

    dimensions: Counts
    samples: Several
    steps: Counts


class Images(Strict):
    """Test images with the widths of their blurs in pixels, throws of the bound, and samples with the steps of each.

    ``shown`` images of every group are kept for the figure.
    """

    images: Several
    blurs: Annotated[tuple[Positive, ...], Field(min_length=1)]
    throws: Several
    samples: Several
    thresholds: Numbers
    quantiles: Quantiles
    steps: Count
    shown: Count


class ImagesJob(OfRun):
    """The run whose network of the first seed scores the images, and what it scores."""

    images: Images


class HighDensitySizes(Strict):
    """The section `high_density` of a scale file."""

    tracking: Tracking
    bias: Bias
    modes: Modes
    guidance: Guidance
    cost: Cost
    images: Images
