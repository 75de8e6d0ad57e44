"""Training throughput of the small U-Net beside the `UNet2DModel` of diffusers, at equal parameters and batch.

Run: python benchmarks/unet_training.py [--threads 2] [--out FILE], with the extra `benchmarks` installed. One process,
interleaved repeats, medians and ranges of the ratio. A step is forward, backward and AdamW, in float32, for both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion_density import artifacts
from diffusion_density.networks.cost import parameters
from diffusion_density.networks.unet import SmallUNet
from diffusion_density.runtime import configure
from diffusion_density.schedules import LogLinear
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.flow_matching import FlowMatching


class Peer(nn.Module):
    """The network of diffusers, called as ours."""

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
    """Seconds a step, after two to warm up."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    configure(options.threads)
    networks = {"ours": SmallUNet(3), "diffusers": Peer()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.repeats):
        for name, network in networks.items():
            times[name].append(seconds(network, options.batch, options.steps))
    ratios = [peer / ours for ours, peer in zip(times["ours"], times["diffusers"], strict=True)]
    result = {
        "parameters": {name: parameters(network) for name, network in networks.items()},
        "images_per_second": {name: options.batch / statistics.median(values) for name, values in times.items()},
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "threads": options.threads,
        "batch": options.batch,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        artifacts.write_json(options.out, result)


if __name__ == "__main__":
    main()
