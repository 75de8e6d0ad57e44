r"""The noise of the objective at fixed weights, by density of times and by stratification (Zheng et al. 2023).

Batches of B images, each with one throw, give losses L and gradients g. One row per batch holds L, ‖g‖² and g · g′ with
the gradient g′ of the next batch. From them

.. math:: \frac{B\,\mathrm{Var}\,L}{(E L)^2}, \qquad E\|g\|^2 - E[g \cdot g'],

the relative variance of the loss of one example (where times are independent) and the variance of the gradient. The
expected gradient, unlike that of the loss, is nearly nothing at trained weights and is the same for all objectives, so
the variances are compared with each other. All objectives share images and noise and differ in their times alone.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.dequantization import to_unit
from diffusion_density.machine import artifacts
from diffusion_density.process.times import independent, low_discrepancy
from diffusion_density.studies.max_likelihood.models import build, last, load, objective
from diffusion_density.studies.max_likelihood.runs import Variance, VarianceJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.flow_matching import FlowMatching, TimeDensity
from diffusion_density.training.randomness import seed_of

DENSITIES: tuple[TimeDensity, ...] = ("uniform", "importance")


def run(sizes: VarianceJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Measure the networks that the runs, which predict the velocity, ended with, and write one row per batch.

    Raises:
        InputError: if a file is of another run.
    """
    images, variance, device = inputs.images, sizes.variance, inputs.device
    rows = []
    total = sum(len(of.seeds) for of in sizes.runs.values()) * 2 * len(DENSITIES)
    with tqdm(total=total, desc="variance", unit="objective") as bar:
        for name, of in sizes.runs.items():
            models = load(inputs.files[name], of, images, device)
            for seed in of.seeds:
                network = build(of, images, seed).to(device)
                trained = last(models, seed)[1].network
                assert isinstance(trained, nn.Module)
                network.load_state_dict(trained.state_dict())
                network.eval()
                for times in DENSITIES:
                    common = objective(of, images.levels)
                    loss = FlowMatching(common.schedule, of.arm.prediction, times)
                    for stratified in (False, True):
                        measured = _batches(network, loss, images, variance, seed, stratified, device)
                        columns = {"run": name, "path": of.arm.path, "times": times, "stratified": stratified}
                        rows += [columns | {"seed": seed, "batch": i} | row for i, row in enumerate(measured)]
                        bar.update()
    table = pd.DataFrame(rows)
    table.insert(0, "dataset", images.name)
    table.insert(1, "batch_size", variance.batch_size)
    artifacts.write_csv(outputs["variance"], table)


def _batches(
    network: nn.Module,
    loss: FlowMatching,
    images: ImageSet,
    variance: Variance,
    seed: int,
    stratified: bool,
    device: torch.device,
) -> list[dict[str, float]]:
    """Loss, squared norm of the gradient and its product with the next one's, of every batch."""
    draw = low_discrepancy if stratified else independent
    losses, gradients = [], []
    for batch in range(variance.batches):
        generator = seeded(seed_of(seed, batch))
        chosen = torch.randint(len(images.train), (variance.batch_size,), generator=generator)
        x = to_unit(images.train[chosen], images.levels)
        noise = torch.randn(x.shape, generator=generator)
        u = draw(variance.batch_size, generator)
        value = loss(network, x.to(device), u.to(device), noise.to(device)).mean()
        losses.append(value.item())
        gradients.append(_flat(torch.autograd.grad(value, list(network.parameters()))))
    following = gradients[1:] + gradients[:1]
    return [
        {
            "loss_nats": value,
            "gradient_norm2": g.square().sum().item(),
            "gradient_next": torch.dot(g, after).item(),
        }
        for value, g, after in zip(losses, gradients, following, strict=True)
    ]


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).cpu()
