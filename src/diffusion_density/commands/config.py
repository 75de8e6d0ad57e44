"""The workflow's configuration, typed: ``config.yaml``, what a user changes, and ``workflow/scales/``, the sizes.

A wrong key or value raises `InputError` with one line that names the file, the key and what is wrong. Studies never
import this module: they get their own part, resolved, so that changing one size reruns one experiment.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, create_model

from diffusion_density.claims.definition import ScaleName as ScaleName
from diffusion_density.data.catalogue import check_name, slug
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked, explain, read_yaml
from diffusion_density.studies.declaration import studies
from diffusion_density.studies.fields import Strict

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

    scale: ScaleName = Field(default="desk", description="how large everything is; see workflow/scales")
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1), AfterValidator(_distinct)
    ] = Field(default=(0, 1, 2), description="one repetition of every training each")
    datasets: Annotated[tuple[Annotated[str, AfterValidator(check_name)], ...], AfterValidator(_one_slug_each)] = Field(
        default=("photos32", "cifar10"), description="image sets to train on, in addition to digits"
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


_SECTIONS: dict[str, Any] = {slug: (study.sizes, ...) for slug, study in studies().items()}
Scale = create_model("Scale", __base__=Strict, **_SECTIONS)
"""A file ``workflow/scales/<scale>.yaml``: the sizes of every study."""


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


def read_scale(name: str, folder: Path) -> Any:  # noqa: ANN401 (a `Scale`, which has a field for every study)
    """Read and check the scale file ``<folder>/<name>.yaml``: the sizes of each study, under its slug."""
    file = folder / f"{name}.yaml"
    return checked(Scale, read_yaml(file), file)
