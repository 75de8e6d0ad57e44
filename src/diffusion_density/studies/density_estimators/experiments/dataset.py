"""The data: random Gaussian mixtures, and training samples from each."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.studies.density_estimators.sizes import Dataset, TrainingRun
from diffusion_density.studies.shared.seeds import seeded

_NAMES = ("weights", "means", "covariances")


def run(sizes: Dataset, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Draw the mixtures of one dimension and their samples, and write them.

    Mixture k of dimension D has the seed 1000 D + k: it does not depend on the numbers of mixtures and samples.
    """
    mixtures, samples = [], []
    for index in range(sizes.mixtures):
        generator = seeded(1000 * sizes.dimension, index)
        mixtures.append(GaussianMixture.random(sizes.dimension, sizes.components, generator))
        samples.append(mixtures[-1].sample(sizes.samples, generator=generator))
    tensors = {name: torch.stack([getattr(mixture, name) for mixture in mixtures]) for name in _NAMES}
    tensors["train"] = torch.stack(samples).float()
    artifacts.write_safetensors(outputs["dataset"], tensors, sizes.model_dump(mode="json"))


def load(path: Path, run: TrainingRun) -> tuple[list[GaussianMixture], Tensor]:
    """The mixtures of a run's data file, and their first training samples (M, N, D) in single precision.

    Raises:
        InputError: if the file is not such a file, has another dimension, or holds too little for the run.
    """
    tensors, _ = artifacts.read_safetensors(path, (*_NAMES, "train"))
    train = tensors["train"]
    count, samples, dimension = train.shape
    if dimension != run.dimension:
        raise InputError(f"{path}: holds points of {dimension} dimensions, the run has {run.dimension}")
    if count < run.mixtures or samples < run.samples:
        held, needed = f"{samples} samples of {count} mixtures", f"{run.samples} of {run.mixtures}"
        raise InputError(f"{path}: holds {held}, {needed} are needed; make it again")
    mixtures = [GaussianMixture(*parts) for parts in zip(*(tensors[name] for name in _NAMES), strict=True)]
    return mixtures[: run.mixtures], train[: run.mixtures, : run.samples]
