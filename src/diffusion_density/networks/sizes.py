"""Sizes of the networks, as typed configuration. This module does not import torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class _Size(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MLPSize(_Size):
    """The sizes of `networks.mlp.MLP`, which documents them."""

    widths: Annotated[tuple[Count, ...], Field(min_length=1)]
    frequencies: Annotated[int, Field(ge=0)]
    time_frequencies: Count
    frequency_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SmallUNetSize(_Size):
    """The sizes of `networks.unet.SmallUNet`, which documents them."""

    kind: Literal["small"]
    widths: Annotated[tuple[Count, ...], Field(min_length=1)]
    blocks: Count = 1
    patch: Count = 2
    contrasts: Count = 24
    time_width: Count = 128
    dropout: Probability = 0.0


class FullResolutionUNetSize(_Size):
    """The sizes of `networks.unet.FullResolutionUNet`, which documents them."""

    kind: Literal["full_resolution"]
    width: Annotated[int, Field(ge=64, multiple_of=32)] = 128
    depth: Count = 32
    dropout: Probability = 0.1
    attention: Literal["middle", "all"] = "middle"


UNetSize = Annotated[SmallUNetSize | FullResolutionUNetSize, Field(discriminator="kind")]
