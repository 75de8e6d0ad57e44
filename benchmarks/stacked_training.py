"""What training many small networks as one stack gains over training them one after the other.

Run: python benchmarks/stacked_training.py [--out FILE]. One process, interleaved repeats, medians and ranges of ratios.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from diffusion_density import artifacts
from diffusion_density.networks.mlp import MLP
from diffusion_density.runtime import configure
from diffusion_density.schedules import VariancePreserving
from diffusion_density.training.stack import Member, train_stack

SCHEDULE = VariancePreserving(0.1, 16.0)


def members(count: int) -> list[Member]:
    data = torch.randn(1024, 3, generator=torch.Generator().manual_seed(0))
    networks = (MLP(3, (24, 24), 4, 4, 0.1, generator=torch.Generator().manual_seed(i)) for i in range(count))
    return [Member(network, "entropy", "unit", data, stream) for stream, network in enumerate(networks)]


def seconds(stacks: list[list[Member]], throws: int, steps: int) -> float:
    begin = time.perf_counter()
    for stack in stacks:
        for _ in train_stack(
            stack, SCHEDULE, throws=throws, batch_size=32, learning_rate=1e-3, ema=0.99, checkpoints=[steps]
        ):
            pass
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stacked_training.json"))
    parser.add_argument("--networks", type=int, default=18)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    configure(1)
    rows = []
    for throws in (1, 10, 100):
        everyone = members(arguments.networks)
        ratios = []
        for _ in range(arguments.repeats):
            together = seconds([everyone], throws, arguments.steps)
            alone = seconds([[member] for member in everyone], throws, arguments.steps)
            ratios.append(alone / together)
        rows.append(
            {
                "throws": throws,
                "networks": arguments.networks,
                "speedup_median": statistics.median(ratios),
                "speedup_min": min(ratios),
                "speedup_max": max(ratios),
            }
        )
        print(json.dumps(rows[-1]))
    artifacts.write_json(arguments.out, rows)


if __name__ == "__main__":
    main()
