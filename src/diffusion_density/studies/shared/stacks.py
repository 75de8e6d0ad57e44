"""Stacks of small networks on disk: several in one file, with the settings that they were trained with."""

import copy
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.mlp import MLP


def save(path: Path, settings: BaseModel, stacks: Mapping[str, MLP]) -> None:
    """Write stacks by their names."""
    tensors = {f"{name}/{key}": value for name, stack in stacks.items() for key, value in stack.state_dict().items()}
    artifacts.write_safetensors(path, tensors, settings.model_dump(mode="json"))


def load(path: Path, settings: BaseModel, templates: Mapping[str, MLP]) -> dict[str, MLP]:
    """The stacks of a file, without gradients, by their names.

    Args:
        path: what :func:`save` wrote.
        settings: those that the networks must have been trained with.
        templates: a stack of the right shape under each name; its weights do not matter.

    Raises:
        InputError: if the file was made with other settings.
    """
    tensors, saved = artifacts.read_safetensors(path)
    if saved != settings.model_dump(mode="json"):
        raise InputError(f"{path}: holds the networks of other settings; train them again")
    stacks = {}
    for name, template in templates.items():
        prefix = f"{name}/"
        stacks[name] = copy.deepcopy(template).requires_grad_(False)
        stacks[name].load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    return stacks
