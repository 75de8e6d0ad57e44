"""The networks of the study: multilayer perceptrons, as stacks.

They output the entropy prediction e of Premkumar 2024. On this schedule ε̂ = σ (y − e), so that errors of e are
harmless at both ends, where ε̂ itself is nearly 0 or nearly y; the losses are those of ε̂.
"""

from collections.abc import Sequence
from typing import get_args

from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from diffusion_density.networks.mlp import MLP
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.schedules import Schedule, VariancePreserving
from diffusion_density.studies.density_formula.sizes import Training
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.objectives import Weighting
from diffusion_density.training.stack import Member, train_stack

SCHEDULE = VariancePreserving(beta_min=0.1, beta_max=20.0)
PREDICTION: Prediction = "entropy"
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


def build(training: Training, dimension: int, seed: int, context: int = 0) -> MLP:
    """The untrained network of a seed, of p(x | c) if there are ``context`` numbers in c."""
    generator = seeded(seed)
    return MLP(dimension, **training.network.model_dump(), context=context, generator=generator)


def members(
    training: Training,
    seeds: Sequence[int],
    data: Float[Tensor, "n d"],
    weightings: Sequence[Weighting] = ("likelihood",),
    context: int = 0,
) -> list[Member]:
    """A network for each weighting and seed, the seeds running fastest; the last ``context`` columns of data are c."""
    return [
        Member(build(training, data.shape[1] - context, seed, context), PREDICTION, weighting, data, seed)
        for weighting in weightings
        for seed in seeds
    ]


def trained(members: Sequence[Member], training: Training, label: str, schedule: Schedule = SCHEDULE) -> MLP:
    """The stack of averaged networks after the last step, with a progress bar.

    Raises:
        InputError: if the batch size does not divide the number of samples.
        NumericalError: if a loss is not finite.
    """
    steps = train_stack(
        members,
        schedule,
        throws=training.throws,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        ema=training.ema,
        checkpoints=[training.steps],
    )
    bar = tqdm(steps, total=training.steps, desc=label, unit="step", mininterval=2)
    *_, (_, stack) = bar
    assert stack is not None
    return stack
