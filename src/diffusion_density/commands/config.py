"""The workflow's configuration, typed: ``config.yaml``, what a user changes, and ``workflow/scales/``, the sizes.

A wrong key or value raises `InputError` with one line that names the file, the key and what is wrong. Studies never
import this module: they get their own part, resolved, so that changing one size reruns one experiment.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from diffusion_density.claims.definition import ScaleName as ScaleName
from diffusion_density.data.catalogue import check_name, slug
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked, explain, read_yaml
from diffusion_density.studies.comparison.sizes import ComparisonSizes
from diffusion_density.studies.density_estimators.sizes import DensityEstimatorsSizes
from diffusion_density.studies.density_formula.sizes import DensityFormulaSizes
from diffusion_density.studies.fields import Strict
from diffusion_density.studies.high_density.sizes import HighDensitySizes
from diffusion_density.studies.max_likelihood.sizes import MaxLikelihoodSizes

CONFIG_FILE = Path("config.yaml")
SCALES = Path("workflow/scales")


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError("holds the same seed twice")
    return values


def _one_slug_each(names: tuple[str, ...]) -> tuple[str, ...]:
    if len({slug(name) for name in names}) < len(names):
        raise ValueError("holds two image sets of the same name")
    return names


class Config(Strict):
    """The file ``config.yaml``."""

    model_config = ConfigDict(title="config.yaml")

    scale: ScaleName = Field(default="desk", description="how large everything is; see workflow/scales")
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = Field(default=(0, 1, 2), description="one repetition of every training each")
    datasets: Annotated[tuple[Annotated[str, AfterValidator(check_name)], ...], AfterValidator(_one_slug_each)] = Field(
        default=("photos32", "cifar10"), description="image sets to train on, beside digits"
    )
    data_dir: Path = Field(default=Path("data"), description="where archives of images are")
    devices: Annotated[int, Field(ge=1)] = Field(
        default=1, description="processes of one training job of large images; at paper scale each asks for a GPU"
    )
    gpu_model: Annotated[str, Field(pattern=r"^[\w.]+$")] | None = Field(
        default=None, description="the GPUs to ask a cluster for, as it calls them; by default any"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of convolutions in training; auto is bfloat16 where the device multiplies in it"
    )


class Scale(Strict):
    """A file ``workflow/scales/<scale>.yaml``: the sizes of every study."""

    model_config = ConfigDict(title="workflow/scales/<scale>.yaml")

    comparison: ComparisonSizes
    density_estimators: DensityEstimatorsSizes
    density_formula: DensityFormulaSizes
    high_density: HighDensitySizes
    max_likelihood: MaxLikelihoodSizes

    @model_validator(mode="after")
    def _default_throws_are_trained(self) -> "Scale":
        study = self.density_estimators
        if study.throws_default not in study.throws.values or study.throws_default > study.throws.many:
            raise ValueError(
                "density_estimators.throws_default must be among density_estimators.throws.values and not above "
                "density_estimators.throws.many: timing and agreement use the networks of that run"
            )
        return self


def read_config(values: Mapping[str, Any], overridden: Collection[str] = (), file: Path = CONFIG_FILE) -> Config:
    """Check a configuration that was read already.

    Args:
        values: the configuration, with the command line's values in place.
        overridden: the keys that came by ``--config``, which errors then name instead of the file.
        file: where the other keys came from.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        given = str(error.errors()[0]["loc"][0]) in set(overridden)
        raise InputError(f"{'--config' if given else file}: {explain(error)}") from None


def read_scale(name: str, folder: Path) -> Scale:
    """Read and check the scale file ``<folder>/<name>.yaml``."""
    file = folder / f"{name}.yaml"
    return checked(Scale, read_yaml(file), file)


def schemas() -> dict[str, str]:
    """The JSON schemas of the configuration and the scale files, by file name."""
    models: dict[str, type[Strict]] = {"config": Config, "scale": Scale}
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.schema.json": json.dumps(dialect | model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }
