"""The commands ``train`` and ``sample``: fit a network to a table of points, and draw samples from it."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from tqdm import tqdm

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording
from diffusion_density.studies.job import Threads

BATCH_SIZE = 32


def train(
    points: Annotated[Path, typer.Argument(help="CSV with a header: one point per row, one coordinate per column.")],
    out: Annotated[Path, typer.Option(help="The model to write (.safetensors).")],
    prediction: Annotated[
        Literal["noise", "score", "entropy"], typer.Option(help="What the network predicts.")
    ] = "entropy",
    throws: Annotated[
        int, typer.Option(min=1, help="Random draws of (time, noise) per point of a minibatch (of 32 points).")
    ] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over all points.")] = 100,
    width: Annotated[int, typer.Option(min=1, help="Units of each of the two hidden layers.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0, help="Step size of Adam.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights, the minibatches and the noise.")] = 0,
    threads: Threads = 1,
) -> None:
    """Train a network on a table of points. Scale the columns to about unit variance first.

    The number of points is rounded down to a multiple of 32; the last points are left out.
    """
    import torch

    from diffusion_density.commands.score.inputs import read_points
    from diffusion_density.machine.runtime import configure
    from diffusion_density.networks.sizes import MLPSize
    from diffusion_density.training import saved
    from diffusion_density.training.stack import Member, train_stack

    configure(threads)
    x = read_points(points)
    data = x[: len(x) // BATCH_SIZE * BATCH_SIZE].float()
    if not len(data):
        raise InputError(f"{points}: training needs at least {BATCH_SIZE} points, got {len(x)}")
    size = MLPSize(widths=(width, width), frequencies=8, time_frequencies=8, frequency_scale=0.1)
    schedule = saved.VariancePreservingSettings()
    model = saved.ModelSettings(dimension=x.shape[1], prediction=prediction, schedule=schedule, network=size)
    network = model.build(torch.Generator().manual_seed(seed))
    steps = epochs * len(data) // BATCH_SIZE
    training = train_stack(
        [Member(network, prediction, "unit", data, seed)],
        schedule.build(),
        throws=throws,
        batch_size=BATCH_SIZE,
        learning_rate=learning_rate,
        ema=0.99,
        checkpoints=[steps],
    )
    settings = {"throws": throws, "epochs": epochs, "learning_rate": learning_rate}
    recorded = {"points": str(points), "model": model.model_dump(mode="json")} | settings
    with recording([out], settings=recorded, seeds=[seed]):
        for _, stack in tqdm(training, total=steps, desc="training", unit="step"):
            if stack is not None:
                saved.save(out, stack[0], model)


def sample(
    model: Annotated[Path, typer.Argument(help="A model that `train` wrote.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    n: Annotated[int, typer.Option("--number", min=1, help="Number of samples.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Network evaluations per sample.")] = 500,
    stochasticity: Annotated[
        float, typer.Option(min=0, help="Amount of fresh noise: 0 gives the flow, 1 the reverse SDE.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.")] = 0,
    threads: Threads = 1,
) -> None:
    """Draw samples from a trained model and write them to a CSV."""
    import pandas as pd
    import torch

    from diffusion_density.machine.runtime import configure
    from diffusion_density.sampling import samplers
    from diffusion_density.training import saved

    configure(threads)
    trained, details = saved.load(model)
    event, generator = (details.dimension,), torch.Generator().manual_seed(seed)
    settings = {"model": str(model), "number": n, "steps": steps, "stochasticity": stochasticity}
    with recording([out], settings=settings, seeds=[seed]):
        x = samplers.sample(trained, n, event, steps=steps, stochasticity=stochasticity, generator=generator)
        table = pd.DataFrame(x.numpy(), columns=[f"x{i + 1}" for i in range(details.dimension)])
        artifacts.write_csv(out, table)
