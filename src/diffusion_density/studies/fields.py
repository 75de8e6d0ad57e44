"""The types of sizes and settings that all studies share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Several = Annotated[int, Field(gt=1)]  # what a standard error needs
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tolerance = Annotated[float, Field(ge=1e-6, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Seeds = Annotated[tuple[int, ...], Field(min_length=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Levels = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=1)]


class Strict(BaseModel):
    """A configuration node: unknown keys are errors, and it can't be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
