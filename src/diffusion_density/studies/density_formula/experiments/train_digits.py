r"""Networks on real digits: whole images under each weighting, images given their class, and rows given the rows above.

Images of 8×8 pixels with 17 levels become points of 64 numbers by uniform dequantization,
x = (2 (k + u) − 17)/17 in (−1, 1), so that every density here is one of x, in nats per image.

* ``images``: p(x), one network for each weighting and seed.
* ``classes``: p(x | c), the class as ten numbers 0 or 1 next to the image.
* ``rows``: p(row r | rows above it), one network for all eight rows: the rows above, with zeros for those to come, and
  the place of the row as eight numbers 0 or 1 stand next to it. The sum of the eight log densities is that of the
  image: the diffusion loss as the likelihood of an autoregressive factorisation (Li and Yan 2024, section 4.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from diffusion_density.data import images
from diffusion_density.density.images.dequantization import to_unit
from diffusion_density.machine.errors import InputError
from diffusion_density.networks.mlp import MLP
from diffusion_density.studies.density_formula.networks import WEIGHTINGS, members, trained
from diffusion_density.studies.density_formula.sizes import Run
from diffusion_density.studies.shared import stacks
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.training.stack import Member

ROWS, PIXELS, CLASSES = 8, 64, 10


@dataclass(frozen=True)
class Points:
    """Dequantized digits.

    Attributes:
        x: (N, 64) in (−1, 1).
        labels: (N,) classes 0 … 9.
    """

    x: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]


def training_points(count: int) -> Points:
    """The first training digits.

    Raises:
        InputError: if there are fewer.
    """
    return _dequantized(0, count)


def held_out(count: int, seed: int | None = None) -> Points:
    """The first test digits, or some that a seed draws.

    Raises:
        InputError: if there are fewer.
    """
    return _dequantized(1, count, seed)


def _dequantized(part: int, count: int, seed: int | None = None) -> Points:
    """Of the training images (0) or the test images (1), in their order or in one that a seed draws."""
    digits = images.load("digits", Path())
    pixels = (digits.train, digits.test)[part]
    if count > len(pixels):
        raise InputError(f"digits: {count} images asked for, there are {len(pixels)}")
    u = torch.rand(len(pixels), PIXELS, generator=seeded(1, part))
    x = to_unit(pixels, digits.levels).flatten(1) + (2 * u - 1) / digits.levels
    order = torch.arange(len(x)) if seed is None else torch.randperm(len(x), generator=seeded(seed))
    return Points(x[order[:count]], images.digit_labels()[part][order[:count]])


def class_context(labels: Int[Tensor, " n"]) -> Float[Tensor, "n 10"]:
    """What a network of p(x | c) is given."""
    return one_hot(labels, CLASSES).float()


def row_points(x: Float[Tensor, "n 64"]) -> tuple[Float[Tensor, "m 8"], Float[Tensor, "m 72"]]:
    """The 8 N rows of N images, image by image, and what a network is given of each: the rows above, and its place."""
    rows = x.reshape(-1, ROWS, PIXELS // ROWS)
    above = torch.ones(ROWS, ROWS).tril(-1)[:, :, None] * rows[:, None]  # (N, row, rows above it or zeros, 8)
    place = torch.eye(ROWS).expand(len(x), ROWS, ROWS)
    return rows.flatten(0, 1), torch.cat([above.flatten(2), place], dim=2).flatten(0, 1)


def _members(run: Run) -> dict[str, list[Member]]:
    """The networks of the three stacks; in the first, the seeds run fastest."""
    points = training_points(run.samples)
    training, seeds = run.training, run.seeds
    given_class = class_context(points.labels)
    row, given_row = row_points(points.x)
    return {
        "images": members(training, seeds, points.x, WEIGHTINGS),
        "classes": members(training, seeds, torch.cat([points.x, given_class], dim=1), context=CLASSES),
        "rows": members(training, seeds, torch.cat([row, given_row], dim=1), context=given_row.shape[1]),
    }


def run(sizes: Run, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Train the three stacks and write them.

    Raises:
        InputError: if there are fewer training images than ``sizes.samples``.
    """
    networks = {name: trained(stack, sizes.training, name) for name, stack in _members(sizes).items()}
    stacks.save(outputs["models"], sizes, networks)


def load(path: Path, run: Run) -> dict[str, MLP]:
    """The three stacks: ``images``, ``classes`` and ``rows``.

    Raises:
        InputError: if the file holds the networks of other settings.
    """
    templates = {name: MLP.stack([member.network for member in stack]) for name, stack in _members(run).items()}
    return stacks.load(path, run, templates)
