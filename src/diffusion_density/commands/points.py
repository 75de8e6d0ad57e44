"""What the command line does with tables of points: train on them, sample more of them."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.machine.errors import InputError
from diffusion_density.sampling.samplers import sample as draw
from diffusion_density.training import saved
from diffusion_density.training.stack import Member, train_stack


def train(
    points: Tensor,
    settings: saved.ModelSettings,
    out: Path,
    *,
    throws: int,
    epochs: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train one network on points (N, D) and write it.

    Raises:
        InputError: if there are fewer points than a minibatch holds.
        NumericalError: if the loss is not finite.
    """
    batch = 32
    data = points[: len(points) // batch * batch].float()
    if not len(data):
        raise InputError(f"training needs at least {batch} points, got {len(points)}")
    network = settings.build(torch.Generator().manual_seed(seed))
    steps = epochs * len(data) // batch
    training = train_stack(
        [Member(network, settings.prediction, "unit", data, seed)],
        settings.schedule.build(),
        throws=throws,
        batch_size=batch,
        learning_rate=learning_rate,
        ema=0.99,
        checkpoints=[steps],
    )
    for _, stack in tqdm(training, total=steps, desc="training", unit="step"):
        if stack is not None:
            saved.save(out, stack[0], settings)


def sample(model: Path, n: int, *, steps: int, stochasticity: float, seed: int) -> pd.DataFrame:
    """n samples of a saved model, one a row.

    Raises:
        InputError: for a file that is no model, or counts that make no sense.
    """
    trained, settings = saved.load(model)
    generator = torch.Generator().manual_seed(seed)
    x = draw(trained, n, (settings.dimension,), steps=steps, stochasticity=stochasticity, generator=generator)
    return pd.DataFrame(x.numpy(), columns=[f"x{i + 1}" for i in range(settings.dimension)])
