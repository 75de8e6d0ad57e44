"""Check input of the user (YAML, JSON, headers of files) against typed models.

Every function here raises `InputError`: one line that names the file or option, the key and what is wrong with it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from diffusion_density.machine.artifacts import read_text
from diffusion_density.machine.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping."""
    try:
        values = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{file}:{line} is not YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: must hold keys with values")
    return values


def parse(model: type[Model], text: str, origin: str) -> Model:
    """Check JSON ``text`` against ``model``; errors name ``origin``."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(error)}") from None


def checked(model: type[Model], values: Any, origin: object) -> Model:  # noqa: ANN401 (whatever was read)
    """Check values that were read before; errors name ``origin``."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Everything that a check found, on one line: ``key: what is wrong (got value)``."""
    problems = error.errors(include_url=False)
    inner = {problem["loc"][:-1] for problem in problems}
    # A list with wrong items is also reported as too short: report it once.
    return "; ".join(_explain_one(p) for p in problems if not (p["type"] == "too_short" and p["loc"] in inner))


def _explain_one(problem: Any) -> str:  # noqa: ANN401 (pydantic_core's ErrorDetails)
    key = ".".join(map(str, problem["loc"]))
    plain = {"extra_forbidden": "unknown key", "missing": "is missing", "too_short": "must not be empty"}
    if problem["type"] in plain:
        return f"{key}: {plain[problem['type']]}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    given = problem["input"]
    got = "" if isinstance(given, Mapping) else f" (got {given!r})"
    return f"{key}: {message}{got}" if key else message
