"""The networks of paper A: one stack a run, in a fixed order, saved at every checkpoint.

The order of a stack is arms × mixtures × seeds, the last running fastest.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_density import artifacts
from diffusion_density.errors import InputError
from diffusion_density.model import DiffusionModel
from diffusion_density.networks.mlp import MLP
from diffusion_density.schedules import VariancePreserving
from diffusion_density.studies.density_estimators.sizes import Arm, TrainingRun

SCHEDULE = VariancePreserving(beta_min=0.1, beta_max=16.0)  # sheet A, section 1


@dataclass(frozen=True)
class Place:
    """What the network at one place of a stack is."""

    arm: Arm
    mixture: int
    seed: int

    def columns(self) -> dict[str, str | bool | int]:
        """The columns that name it in a table."""
        return {
            "prediction": self.arm.prediction,
            "weighting": self.arm.weighting,
            "skip": self.arm.skip,
            "mixture": self.mixture,
            "seed": self.seed,
        }


def places(run: TrainingRun) -> list[Place]:
    """The places of a run's stack, in order."""
    return [Place(arm, mixture, seed) for arm in run.arms for mixture in range(run.mixtures) for seed in run.seeds]


def build(run: TrainingRun, place: Place) -> MLP:
    """The untrained network of a place: its seed alone draws the weights, so that arms start alike."""
    return MLP(
        run.dimension,
        **run.network.model_dump(),
        skip=place.arm.skip,
        generator=torch.Generator().manual_seed(place.seed),
    )


def save(path: Path, run: TrainingRun, stacks: Sequence[MLP]) -> None:
    """Write the stacks of a run's checkpoints."""
    tensors = {
        f"{index}/{name}": value for index, stack in enumerate(stacks) for name, value in stack.state_dict().items()
    }
    artifacts.write_safetensors(path, tensors, run.model_dump(mode="json"))


@dataclass(frozen=True)
class Checkpoint:
    """The networks of a run after some epochs of training."""

    epochs: float
    run: TrainingRun
    networks: MLP

    def model(self, index: int) -> DiffusionModel:
        """The model at one place of the stack."""
        return DiffusionModel(self.networks[index], SCHEDULE, places(self.run)[index].arm.prediction)

    def together(self, arm: int) -> DiffusionModel:
        """All networks of one arm as one model: equal shares of a batch's rows, in order, go to each of them."""
        each = len(places(self.run)) // len(self.run.arms)
        stack = self.networks[arm * each : (arm + 1) * each]

        def network(x: Tensor, s: Tensor) -> Tensor:
            return stack(x.reshape(each, -1, x.shape[1]), s.reshape(each, -1)).reshape(x.shape)

        return DiffusionModel(network, SCHEDULE, self.run.arms[arm].prediction)


def load(path: Path, run: TrainingRun) -> list[Checkpoint]:
    """The checkpoints of a run, in order.

    Raises:
        InputError: if the file holds another run.
    """
    tensors, settings = artifacts.read_safetensors(path)
    if settings != run.model_dump(mode="json"):
        raise InputError(f"{path}: holds the networks of other settings; train them anew")
    template = MLP.stack([build(run, place) for place in places(run)]).requires_grad_(False)
    checkpoints = []
    for index, epochs in enumerate(run.checkpoints):
        prefix = f"{index}/"
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        networks = copy.deepcopy(template)
        networks.load_state_dict(state)
        checkpoints.append(Checkpoint(epochs, run, networks))
    return checkpoints
