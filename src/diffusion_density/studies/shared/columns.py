"""What the columns of a table hold: a study declares this for its tables in ``studies/<slug>/columns.py``.

*Settings* say what was measured. *Repeats* tell the repetitions of one measurement apart. *Measured* columns hold its
results, each with its error column where a table has one. *Costs* depend on the machine and are never compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Role = Literal["setting", "repeat", "measured", "error", "cost"]


@dataclass(frozen=True)
class Column:
    """One column; ``errors`` names its standard error, or both ends of its 95 % interval."""

    role: Role
    errors: tuple[str, ...] = ()


Columns = dict[str, Column]
"""By name. A name has one role in all tables of a study."""


def declare(
    settings: str = "",
    repeats: str = "",
    measured: str = "",
    errors: Mapping[str, str] = MappingProxyType({}),
    costs: str = "",
) -> Columns:
    """Columns by their roles, with names separated by spaces; ``errors`` are those of further measured columns."""
    names: dict[Role, str] = {"setting": settings, "repeat": repeats, "measured": measured, "cost": costs}
    names["error"] = " ".join(errors.values())
    found = {name: Column(role) for role, text in names.items() for name in text.split()}
    return found | {name: Column("measured", tuple(error.split())) for name, error in errors.items()}


SHARED = declare(
    settings="dataset run step estimator method density kind subject target dimension steps samples throws finding",
    repeats="seed point image sample index",
    measured="n network_evaluations",
    errors={
        "log_prob_nats": "stderr_nats",
        "value_nats": "stderr_nats",
        "bits_per_dim": "stderr_bits_per_dim",
        "kl_nats": "kl_stderr_nats",
        "mean_error_nats": "mean_error_stderr_nats",
        "value": "ci_low ci_high",
    },
    costs="seconds_per_point seconds_per_sample",
)
"""The columns that tables of several studies have."""
