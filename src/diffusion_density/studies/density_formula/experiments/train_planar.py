"""Networks on points in the plane: for each distribution one under each weighting of the loss, and each seed.

Networks of equal seed start alike and see the same minibatches and throws.
"""

from collections.abc import Mapping
from pathlib import Path

from diffusion_density.networks.mlp import MLP
from diffusion_density.studies.density_formula import planar
from diffusion_density.studies.density_formula.networks import WEIGHTINGS, members, trained
from diffusion_density.studies.density_formula.sizes import Run
from diffusion_density.studies.shared import stacks
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.stack import Member


def _members(run: Run, name: str) -> list[Member]:
    """One network for each weighting and seed, the seeds running fastest."""
    index = planar.NAMES.index(name)
    points = planar.distribution(name).sample(run.samples, generator=seeded(index)).float()
    return members(run.training, run.seeds, points, WEIGHTINGS)


def run(sizes: Run, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Train the networks of every distribution in the plane and write them, one stack per distribution."""
    networks = {name: trained(_members(sizes, name), sizes.training, name) for name in planar.NAMES}
    stacks.save(outputs["models"], sizes, networks)


def load(path: Path, run: Run) -> dict[str, MLP]:
    """The stacks by the names of the distributions; in each the seeds run fastest.

    Raises:
        InputError: if the file holds the networks of other settings.
    """
    templates = {name: MLP.stack([member.network for member in _members(run, name)]) for name in planar.NAMES}
    return stacks.load(path, run, templates)
