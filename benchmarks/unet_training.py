"""Training throughput of the small U-Net and of the `UNet2DModel` of diffusers, with equal parameters and batch.

A step is forward, backward and AdamW, in float32, for both.
"""

import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import ratios, shown, spread
from diffusion_density.networks.cost import parameters
from diffusion_density.networks.unet import SmallUNet
from diffusion_density.process.schedules import LogLinear
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.flow_matching import FlowMatching


@dataclass(frozen=True)
class Sizes:
    """What is run."""

    batch: int = 32
    steps: int = 10
    repeats: int = 5


class Peer(nn.Module):
    """The network of diffusers, called like ours."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(
            sample_size=32,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(32, 40, 56),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=8,
        )

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        output: Tensor = self.unet(x, 1000 * s).sample
        return output


def seconds(network: nn.Module, batch: int, steps: int) -> float:
    """Seconds per step, after two steps of warm-up."""
    objective, optimiser = FlowMatching(LogLinear()), AveragedAdamW(network, 0.01, 0.99)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    begin = 0.0
    for step in range(steps + 2):
        if step == 2:
            begin = time.perf_counter()
        noise = torch.randn(x.shape, generator=generator)
        u = torch.rand(batch, generator=generator, dtype=torch.float64)
        objective(network, x, u, noise).mean().backward()
        optimiser.step(1e-3, None)
    return (time.perf_counter() - begin) / steps


def run(sizes: Sizes) -> dict[str, Any]:
    """All measurements, for JSON; without diffusers only those of our network."""
    networks: dict[str, nn.Module] = {"ours": SmallUNet(3)}
    if find_spec("diffusers"):
        networks["diffusers"] = Peer()
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(sizes.repeats):
        for name, network in networks.items():
            times[name].append(seconds(network, sizes.batch, sizes.steps))
    return {
        "batch": sizes.batch,
        "threads": torch.get_num_threads(),
        "parameters": {name: parameters(network) for name, network in networks.items()},
        "seconds_per_step": {name: spread(values) for name, values in times.items()},
        "times_ours": {name: ratios(values, times["ours"]) for name, values in times.items()},
    }


def report(result: dict[str, Any]) -> str:
    """One line per network."""
    lines = [] if "diffusers" in result["parameters"] else ["not installed: diffusers"]
    for name, count in result["parameters"].items():
        rate = result["batch"] / result["seconds_per_step"][name]["median"]
        ratio = shown(result["times_ours"][name])
        lines.append(f"{name}: {count:,} parameters, {rate:.1f} images per second, {ratio} times our seconds")
    return "\n".join(lines)
