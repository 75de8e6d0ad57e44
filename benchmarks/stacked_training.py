"""Train the small networks of a KL sweep as one stack, or one after the other.

This runs on one thread, as in the workflow. Everything except the stacking is the same, also data and throws.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from benchmarks import fields
from benchmarks.timing import interleaved, ratios, shown, spread
from diffusion_density.machine.runtime import configure
from diffusion_density.networks.mlp import MLP
from diffusion_density.training.stack import Member, train_stack


@dataclass(frozen=True)
class Sizes:
    """What is run."""

    networks: int = 18
    widths: tuple[int, ...] = (24, 24)
    throws: tuple[int, ...] = (1, 10, 100)
    steps: int = 40
    repeats: int = 5


def run(sizes: Sizes) -> list[dict[str, Any]]:
    """A row for each number of throws, for JSON."""
    configure(1)
    return [_timed(throws, sizes) for throws in sizes.throws]


def _timed(throws: int, sizes: Sizes) -> dict[str, Any]:
    data = fields.mixture(3).sample(1024, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    networks = [
        MLP(3, sizes.widths, 4, 4, 0.1, generator=torch.Generator().manual_seed(i)) for i in range(sizes.networks)
    ]
    members = [Member(network, "entropy", "unit", data, stream) for stream, network in enumerate(networks)]

    def train(stacks: list[list[Member]]) -> None:
        for stack in stacks:
            for _ in train_stack(
                stack,
                fields.SCHEDULE,
                throws=throws,
                batch_size=32,
                learning_rate=1e-3,
                ema=0.99,
                checkpoints=[sizes.steps],
            ):
                pass

    times = interleaved(
        {"stacked": lambda: train([members]), "one by one": lambda: train([[member] for member in members])},
        sizes.repeats,
    )
    return {
        "throws": throws,
        "networks": sizes.networks,
        "steps": sizes.steps,
        "threads": torch.get_num_threads(),
        "seconds": {name: spread(values) for name, values in times.items()},
        "speedup": ratios(times["one by one"], times["stacked"]),
    }


def report(result: list[dict[str, Any]]) -> str:
    """A table of the speedups."""
    table = pd.DataFrame(
        {
            "networks": row["networks"],
            "throws": row["throws"],
            **{f"{name} (s)": shown(values) for name, values in row["seconds"].items()},
            "speedup": shown(row["speedup"]),
        }
        for row in result
    )
    return table.to_string(index=False)
