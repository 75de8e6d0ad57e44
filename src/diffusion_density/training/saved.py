"""Save a trained model in one file: the weights, and in the header what is needed to use them. Nothing is executed."""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked
from diffusion_density.networks.mlp import MLP
from diffusion_density.networks.sizes import MLPSize
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.schedules import LogLinear, Schedule, VariancePreserving


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VariancePreservingSettings(_Node):
    """`schedules.VariancePreserving`."""

    kind: Literal["variance_preserving"] = "variance_preserving"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def build(self) -> Schedule:
        """The schedule."""
        return VariancePreserving(self.beta_min, self.beta_max)


class LogLinearSettings(_Node):
    """`schedules.LogLinear`."""

    kind: Literal["log_linear"] = "log_linear"
    gamma_min: float
    gamma_max: float
    path: Literal["vp", "straight"]

    def build(self) -> Schedule:
        """The schedule."""
        return LogLinear(self.gamma_min, self.gamma_max, self.path)


class ModelSettings(_Node):
    """The model that a file of weights belongs to."""

    dimension: Annotated[int, Field(gt=0)]
    prediction: Prediction
    schedule: Annotated[VariancePreservingSettings | LogLinearSettings, Field(discriminator="kind")]
    network: MLPSize

    def build(self, generator: torch.Generator | None = None) -> MLP:
        """The network before training."""
        return MLP(self.dimension, **self.network.model_dump(), generator=generator)


def save(path: Path, network: MLP, settings: ModelSettings) -> None:
    """Write a network with its settings, atomically."""
    artifacts.write_safetensors(path, network.state_dict(), settings.model_dump(mode="json"))


def load(path: Path) -> tuple[DiffusionModel, ModelSettings]:
    """Read a model.

    Raises:
        InputError: if the file is not a saved model, or its weights do not fit its settings.
    """
    tensors, header = artifacts.read_safetensors(path)
    settings = checked(ModelSettings, header, f"{path}: is not a saved model")
    network = settings.build().requires_grad_(False)
    try:
        network.load_state_dict(tensors)
    except RuntimeError:
        raise InputError(f"{path}: the weights do not fit the settings in its header") from None
    return DiffusionModel(network, settings.schedule.build(), settings.prediction), settings
