"""A network in double precision: what its estimators tend to is found with it, where rounding stops no fine solve."""

import copy

from torch import nn

from diffusion_density.process.model import DiffusionModel


def in_double(model: DiffusionModel) -> DiffusionModel:
    """The model with a copy of its network in double precision, for points in double precision."""
    assert isinstance(model.network, nn.Module)
    return DiffusionModel(copy.deepcopy(model.network).double(), model.schedule, model.prediction, model.prior)
