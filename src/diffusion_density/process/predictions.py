r"""What a network predicts, and the conversion of each prediction into each other.

With x = α x₀ + σ ε, four predictions carry the same information as the score ∇log p_s(x):

=========  ==================================================  ===================================
noise      ε̂ = E[ε | x]                                        score = −ε̂/σ
entropy    score − ∇log p_eq, with ∇log p_eq = (2 f / g²) x    paper A; the variance-preserving p_eq is N(0, I)
velocity   normalised path velocity (paper D, section 1.2)     vp (ε̂ − σ x)/α;  straight (ε̂ − x)/(√2 α)
score      the score itself
=========  ==================================================  ===================================

A path with α = 1 − σ is straight; every other schedule here preserves the variance.
"""

from typing import Literal, get_args

from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.broadcasting import per_row
from diffusion_density.process.schedules import LogLinear, Schedule

Prediction = Literal["noise", "score", "entropy", "velocity"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


def checked(prediction: str) -> Prediction:
    """The prediction of that name.

    Raises:
        InputError: if there is none.
    """
    if prediction not in PREDICTIONS:
        raise InputError(f"prediction: {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    return prediction


def is_straight(schedule: Schedule) -> bool:
    """Whether α = 1 − σ along the whole path."""
    return isinstance(schedule, LogLinear) and schedule.path == "straight"


def equilibrium_score(schedule: Schedule, x: Tensor, s: Tensor) -> Tensor:
    """∇log p_eq = (2 f/g²) x, the score of the quasi-equilibrium of the forward process (paper A, section 1)."""
    return per_row(2 * schedule.drift(s) / schedule.diffusion(s), x) * x


def to_score(prediction: Prediction, value: Tensor, schedule: Schedule, x: Tensor, s: Tensor) -> Tensor:
    """The score that a prediction stands for.

    Args:
        prediction: what ``value`` is.
        value: (B, *) the prediction at (x, s).
        schedule: the forward process.
        x: (B, *) where it was predicted.
        s: (B,) or (1,) the times.

    Returns:
        (B, *) ∇log p_s(x), per unit of x.
    """
    if prediction == "score":
        return value
    if prediction == "entropy":
        return value + equilibrium_score(schedule, x, s)
    sigma = per_row(schedule.sigma(s), x)
    if prediction == "noise":
        return -value / sigma
    alpha = per_row(schedule.alpha(s), x)
    if is_straight(schedule):
        return -(2**0.5 * alpha * value + x) / sigma
    return -(alpha * value + sigma * x) / sigma


def from_score(prediction: Prediction, score: Tensor, schedule: Schedule, x: Tensor, s: Tensor) -> Tensor:
    """The inverse of :func:`to_score`: the prediction that stands for this score, same shapes."""
    if prediction == "score":
        return score
    if prediction == "entropy":
        return score - equilibrium_score(schedule, x, s)
    noise = -per_row(schedule.sigma(s), x) * score
    if prediction == "noise":
        return noise
    alpha = per_row(schedule.alpha(s), x)
    if is_straight(schedule):
        return (noise - x) / (2**0.5 * alpha)
    return (noise - per_row(schedule.sigma(s), x) * x) / alpha


def target(prediction: Prediction, x0: Tensor, noise: Tensor, schedule: Schedule, s: Tensor) -> Tensor:
    """What a network should output for x = α x₀ + σ ε, in conditional expectation, same shapes as :func:`to_score`.

    Velocity targets are α ε − σ x₀ on a variance-preserving path and (ε − x₀)/√2 on the straight path; the other
    targets are the conversions of the conditional score −ε/σ.
    """
    if prediction == "noise":
        return noise
    if prediction == "velocity":
        if is_straight(schedule):
            return (noise - x0) / 2**0.5
        return per_row(schedule.alpha(s), x0) * noise - per_row(schedule.sigma(s), x0) * x0
    alpha, sigma = per_row(schedule.alpha(s), x0), per_row(schedule.sigma(s), x0)
    return from_score(prediction, -noise / sigma, schedule, alpha * x0 + sigma * noise, s)
