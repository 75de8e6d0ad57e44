"""The networks of the study: how they are built, kept in one file per run, and read as densities."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.dequantization import start_gamma
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked
from diffusion_density.networks.build import build_unet
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import LogLinear
from diffusion_density.studies.max_likelihood.runs import Arm, Run
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.flow_matching import FlowMatching

GAMMA_MAX = 5.0  # Zheng et al. 2023

Key = tuple[int, int]  # seed and step
Network = TypeVar("Network")  # a model or its weights


def schedule(arm: Arm, levels: int) -> LogLinear:
    """The arm's path from the noise that suits the levels; γ from −13.3 to 5 for 256 of them."""
    return LogLinear(start_gamma(levels), GAMMA_MAX, arm.path)


def objective(run: Run, levels: int) -> FlowMatching:
    """What a run minimises."""
    return FlowMatching(schedule(run.arm, levels), run.arm.prediction, run.arm.times, run.trace_weight)


def build(run: Run, images: ImageSet, seed: int) -> nn.Module:
    """The untrained network: its seed alone draws the weights, so that arms start alike."""
    generator = seeded(seed)
    gammas = (start_gamma(images.levels), GAMMA_MAX)
    return build_unet(run.network, images.shape[0], images.levels, gammas, generator)


def save(
    path: Path,
    run: Run,
    images: ImageSet,
    weights: Mapping[Key, Mapping[str, Tensor]],
    losses: Mapping[int, Tensor],
) -> None:
    """Write the averaged weights of every seed and snapshot, and the losses of every step (nats an image).

    The file says which images they were trained on, by checksum.
    """
    tensors = {f"{seed}/{step}/{name}": value for (seed, step), of in weights.items() for name, value in of.items()}
    curves = {f"{seed}/losses": values for seed, values in losses.items()}
    artifacts.write_safetensors(
        path, tensors | curves, {"run": run.model_dump(mode="json"), "images": dict(images.sha256)}
    )


def run_of(path: Path) -> Run:
    """The run of a file of networks.

    Raises:
        InputError: if it is no such file.
    """
    _, header = artifacts.read_safetensors(path)
    return checked(Run, header.get("run", {}), f"{path}: is no model of images")


def load_weights(path: Path, run: Run, images: ImageSet, others: bool = False) -> dict[Key, dict[str, Tensor]]:
    """The weights of every seed and step, steps rising.

    Raises:
        InputError: if the file is of another run, or, unless ``others`` may be, was trained on other images than these.
    """
    tensors, header = artifacts.read_safetensors(path)
    if header.get("run") != run.model_dump(mode="json"):
        raise InputError(f"{path}: holds the networks of another run; make it again")
    if not others and header["images"] != dict(images.sha256):
        raise InputError(
            f"{path}: its networks were trained on other images than those of {images.name} now "
            f"(SHA-256 {_short(header['images'])} there, {_short(images.sha256)} here); run the workflow again"
        )
    weights: dict[Key, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        seed, step, *name = key.split("/")
        if name:
            weights.setdefault((int(seed), int(step)), {})[name[0]] = tensors[key]
    return dict(sorted(weights.items()))


def load(
    path: Path, run: Run, images: ImageSet, device: torch.device | str = "cpu", others: bool = False
) -> dict[Key, DiffusionModel]:
    """The models of every seed and step, without gradients, for these images.

    Raises:
        InputError: if the file is of another run, or, unless ``others`` may be, was trained on other images than these.
    """
    models = {}
    for key, weights in load_weights(path, run, images, others).items():
        network = build(run, images, key[0]).requires_grad_(False).eval()
        network.load_state_dict(weights)
        models[key] = DiffusionModel(network.to(device), schedule(run.arm, images.levels), run.arm.prediction)
    return models


def _short(checksums: Mapping[str, str]) -> str:
    return ", ".join(value[:12] for value in checksums.values())


def last(networks: Mapping[Key, Network], seed: int) -> tuple[Key, Network]:
    """What a seed ended with."""
    key = max(key for key in networks if key[0] == seed)
    return key, networks[key]


def columns(name: str, run: Run, seed: int, step: int) -> dict[str, str | int | float]:
    """The columns that name a network in a table."""
    return {
        "run": name,
        "prediction": run.arm.prediction,
        "path": run.arm.path,
        "times": run.arm.times,
        "trace_weight": run.trace_weight,
        "seed": seed,
        "step": step,
    }
