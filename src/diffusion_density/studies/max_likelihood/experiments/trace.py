r"""How far the trace of the Jacobian is from the optimum of the second-order objective (Zheng et al. 2023).

At the optimum the expectation of ``FlowMatching.expected_trace`` over the data behind one noisy image is σ tr ∂F/∂y.
The mean miss over images at one time, with the *exact* trace, is thus zero for a perfect network, however noisy a
single image's is. All networks are tested on the same throws.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_density.density.images.dequantization import to_unit
from diffusion_density.density.ode.divergence import with_divergence
from diffusion_density.machine import artifacts
from diffusion_density.process.batches import flat
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import training_target
from diffusion_density.studies.max_likelihood.models import columns, last, load, objective
from diffusion_density.studies.max_likelihood.runs import TraceJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.flow_matching import FlowMatching

_SEED = 20230507


def run(sizes: TraceJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Measure what the runs ended with, and every network of a run that goes on, one row a network and time.

    Raises:
        InputError: if a file is of another run.
    """
    images, trace, device = inputs.images, sizes.trace, inputs.device
    generator = seeded(_SEED)
    count = min(trace.images, len(images.test))
    x = to_unit(images.test[:count], images.levels).to(device)
    noise = torch.randn(x.shape, generator=generator).to(device)
    rows = []
    for name, of in sizes.runs.items():
        wanted = objective(of, images.levels)
        quantiles = (torch.arange(trace.times, dtype=torch.float64) + 0.5) / trace.times
        times = wanted.throw(quantiles)[0].tolist()
        models = load(inputs.files[name], of, images, device)
        if of.origin is None:
            models = dict(last(models, seed) for seed in of.seeds)
        for (seed, step), model in tqdm(models.items(), desc=name, unit="network", mininterval=1):
            for s in times:
                misses = miss(model, wanted, x, noise, s) / x[0].numel()
                rows.append(
                    {"dataset": images.name, **columns(name, of, seed, step)}
                    | {"gamma": -model.schedule.log_snr(torch.tensor(s, dtype=torch.float64)).item(), "images": count}
                    | {"miss_per_dim": misses.mean().item(), "stderr": (misses.std() / math.sqrt(count)).item()}
                )
    artifacts.write_csv(outputs["trace"], pd.DataFrame(rows))


def miss(model: DiffusionModel, objective: FlowMatching, x: Tensor, noise: Tensor, s: float) -> Tensor:
    """(B,) σ tr ∂F/∂y, exact, minus its expected value for the network's own error, at one time."""
    time = torch.full((len(x),), s, dtype=x.dtype, device=x.device)
    alpha, sigma = (torch.tensor(value, dtype=x.dtype, device=x.device) for value in model.schedule.at(s))
    output, divergence = with_divergence(lambda y: model.velocity(y, time), alpha * x + sigma * noise)
    error = flat(training_target("velocity", x, noise, model.schedule, time) - output).square().sum(1)
    return sigma * divergence[:, 0] - objective.expected_trace(
        torch.tensor(s, dtype=torch.float64), error, x[0].numel()
    )
