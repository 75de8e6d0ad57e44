"""Sizes of the networks, as typed configuration: no torch is needed to check them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class MLPSize(BaseModel):
    """The sizes of `networks.mlp.MLP`; see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
    frequencies: Annotated[int, Field(ge=0)]
    time_frequencies: Annotated[int, Field(gt=0)]
    frequency_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
