"""The networks of the study: one stack per run, in a fixed order, saved at every checkpoint.

The order of a stack is arms × mixtures × seeds, the last running fastest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_density.networks.mlp import MLP
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.density_estimators.sizes import Arm, TrainingRun
from diffusion_density.studies.shared import stacks
from diffusion_density.studies.shared.seeds import seeded

SCHEDULE = VariancePreserving(beta_min=0.1, beta_max=16.0)  # as in the code of the author of Premkumar 2024


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
        generator=seeded(place.seed),
    )


def save(path: Path, run: TrainingRun, checkpoints: Sequence[MLP]) -> None:
    """Write the stacks of a run's checkpoints, in their order."""
    stacks.save(path, run, {str(index): stack for index, stack in enumerate(checkpoints)})


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
        network = self.networks[arm * each : (arm + 1) * each].side_by_side()
        return DiffusionModel(network, SCHEDULE, self.run.arms[arm].prediction)


def load(path: Path, run: TrainingRun) -> list[Checkpoint]:
    """The checkpoints of a run, in order.

    Raises:
        InputError: if the file holds another run.
    """
    template = MLP.stack([build(run, place) for place in places(run)])
    networks = stacks.load(path, run, {str(index): template for index in range(len(run.checkpoints))})
    return [Checkpoint(epochs, run, networks[str(index)]) for index, epochs in enumerate(run.checkpoints)]
