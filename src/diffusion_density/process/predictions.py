r"""What a network predicts, and the conversions between the predictions.

With x = α x₀ + σ ε, four predictions carry the same information as the score ∇log p_s(x):

=========  ==================================================  ===================================
noise      ε̂ = E[ε | x]                                        score = −ε̂/σ
entropy    score − ∇log p_eq, with ∇log p_eq = (2 f / g²) x    p_eq = N(0, I) where the variance is preserved
velocity   E[(b ε − c x₀)/n | x] = (ε̂ − c x)/(n α)             along the path; b, c, n: :mod:`.schedules.schedule`
score      the score itself
=========  ==================================================  ===================================

Entropy: Premkumar 2024. Velocity: Salimans and Ho 2022, Zheng et al. 2023.
"""

from typing import Literal, get_args

from torch import Tensor

from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import per_row
from diffusion_density.process.schedules import Schedule

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


def equilibrium_score(schedule: Schedule, x: Tensor, s: Tensor) -> Tensor:
    """∇log p_eq = (2 f/g²) x, the score of the quasi-equilibrium of the forward process (Premkumar 2024)."""
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
    _, c, norm = (per_row(value, x) for value in schedule.velocity(s))
    return -(norm * per_row(schedule.alpha(s), x) * value + c * x) / sigma


def from_score(prediction: Prediction, score: Tensor, schedule: Schedule, x: Tensor, s: Tensor) -> Tensor:
    """The inverse of :func:`to_score`: the prediction that stands for this score, same shapes."""
    if prediction == "score":
        return score
    if prediction == "entropy":
        return score - equilibrium_score(schedule, x, s)
    noise = -per_row(schedule.sigma(s), x) * score
    if prediction == "noise":
        return noise
    _, c, norm = (per_row(value, x) for value in schedule.velocity(s))
    return (noise - c * x) / (norm * per_row(schedule.alpha(s), x))


def training_target(prediction: Prediction, x0: Tensor, noise: Tensor, schedule: Schedule, s: Tensor) -> Tensor:
    """What a network should output for x = α x₀ + σ ε, in conditional expectation, same shapes as :func:`to_score`.

    The target of the velocity is (b ε − c x₀)/n; the other targets are the conversions of the conditional score −ε/σ.
    """
    if prediction == "noise":
        return noise
    if prediction == "velocity":
        b, c, norm = (per_row(value, x0) for value in schedule.velocity(s))
        return (b * noise - c * x0) / norm
    alpha, sigma = per_row(schedule.alpha(s), x0), per_row(schedule.sigma(s), x0)
    return from_score(prediction, -noise / sigma, schedule, alpha * x0 + sigma * noise, s)
