"""The generators of the experiments, each with a seed of its own, so that any part can be repeated alone."""

import torch


def seeded(*parts: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose seed is the sum of the parts: a number of the experiment's own, and the number of the case.

    Training draws from `training.randomness.seed_of`. Here the sum stays, on which the numbers in all tables depend.
    """
    return torch.Generator(device).manual_seed(sum(parts))
