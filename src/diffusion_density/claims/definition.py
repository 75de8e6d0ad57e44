"""What a claim is: the file ``workflow/claims.yaml``, typed.

A claim is measured on one table of a run by a *measure* and judged by a *test*. A measure picks rows by a pandas query,
evaluates an expression of columns in them, averages the rows of each *unit*, and puts the units together:

* ``mean`` of the units; ``difference`` and ``ratio`` (geometric mean) of paired units of two sets of rows;
* ``slope`` of log value against log x, one of every unit;
* ``share`` of the units in whose rows an expression is true throughout;
* ``rank_correlation`` of two expressions over the rows;
* ``stated``: one row that brings its own interval or standard error, or the difference of two such rows;
* ``largest``, ``smallest`` and ``average`` of numbers computed without random draws: the interval is the value itself.

Units are what an interval is over (mixtures, seeds, images). A test is an interval of accepted values.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked, read_yaml
from diffusion_density.studies.fields import Strict

Paper = Literal["A", "B", "C", "D"]
ScaleName = Literal["smoke", "desk", "paper"]
Verdict = Literal["replicated", "not replicated", "inconclusive", "not tested at this scale"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Expression = Annotated[str, Field(min_length=1, description="of columns, as pandas.DataFrame.eval reads it")]
Query = Annotated[str, Field(min_length=1, description="of rows, as pandas.DataFrame.query reads it")]
Table = Annotated[str, Field(pattern=r"^\w+/[\w/-]+$", description="study/table, below results/<scale>")]
ID = Annotated[str, Field(pattern=r"^[A-D]\d+$")]


class Cells(Strict):
    """Numbers in a table: by default that of the measure, and all its rows that the measure picks."""

    table: Table | None = None
    rows: Query | None = None
    of: Expression


class Measured(Strict):
    """What all measures have."""

    table: Table
    rows: Query | None = None
    of: Expression
    over: str = Field(min_length=1, description="what the interval is over")


class ByUnit(Measured):
    """A measure whose interval is over units; rows of one unit are averaged first."""

    unit: tuple[str, ...] = Field(min_length=1)


class Mean(ByUnit):
    """The mean of the units."""

    take: Literal["mean"]


class Paired(ByUnit):
    """A comparison with other rows of the same units, or with another expression of the same rows."""

    take: Literal["difference", "ratio"]
    against: Cells


class Share(ByUnit):
    """The share of units in all of whose rows ``of`` is true."""

    take: Literal["share"]


class Slope(ByUnit):
    """The exponent k of value ∝ xᵏ, by least squares in logarithms, one of every unit.

    With ``against`` the value is the ratio to the other rows of the same unit and x.
    """

    take: Literal["slope"]
    x: str = Field(min_length=1, description="a column")
    against: Cells | None = None


class RankCorrelation(Measured):
    """Spearman's ρ of ``of`` and ``against`` over the rows."""

    take: Literal["rank_correlation"]
    against: Expression


class Stated(Measured):
    """One row that brings its interval: ``low`` and ``high``, or ``stderr``.

    With ``minus`` the number of another row, with independent errors, is subtracted.
    """

    take: Literal["stated"]
    low: Expression | None = None
    high: Expression | None = None
    stderr: Expression | None = None
    minus: Query | None = None

    @model_validator(mode="after")
    def _one_kind_of_error(self) -> "Stated":
        if (self.low is None) != (self.high is None) or (self.low is None) == (self.stderr is None):
            raise ValueError("needs either low and high, or stderr")
        if self.minus and not self.stderr:
            raise ValueError("a difference of two rows needs stderr")
        return self


class Exact(Measured):
    """An extreme or the average of numbers without sampling error; ``over`` says why there is none.

    With ``minus`` the same of other rows is subtracted.
    """

    take: Literal["largest", "smallest", "average"]
    minus: Query | None = None


Measure = Annotated[
    Mean | Paired | Share | Slope | RankCorrelation | Stated | Exact,
    Field(discriminator="take"),
]


class Test(Strict):
    """Accepted values: ``above``, ``below``, ``within`` (borders included), or ``equal_to`` with a ``tolerance``."""

    __test__ = False  # no test of pytest's

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None
    equal_to: float | None = None
    tolerance: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_rule(self) -> "Test":
        rules = [self.above, self.below, self.within, self.equal_to]
        if sum(rule is not None for rule in rules) != 1 or (self.equal_to is None) != (self.tolerance is None):
            raise ValueError("needs one of above, below, within, or equal_to with tolerance")
        if not self.accepted[0] < self.accepted[1]:
            raise ValueError("accepts nothing")
        return self

    @property
    def accepted(self) -> tuple[float, float]:
        """Both ends of the accepted values."""
        if self.within is not None:
            return self.within
        if self.equal_to is not None and self.tolerance is not None:
            return self.equal_to - self.tolerance, self.equal_to + self.tolerance
        return (
            -math.inf if self.above is None else self.above,
            math.inf if self.below is None else self.below,
        )

    def __str__(self) -> str:
        low, high = self.accepted
        if self.equal_to is not None:
            return f"equal to {self.equal_to:g} within {self.tolerance:g}"
        if math.isinf(high):
            return f"above {low:g}"
        return f"below {high:g}" if math.isinf(low) else f"between {low:g} and {high:g}"


class Published(Strict):
    """A number that the authors printed, and where it was read."""

    value: float
    read_in: str


class Claim(Strict):
    """One statement of a paper and how a run judges it."""

    id: ID
    paper: Paper
    kind: Literal["key result", "mechanism", "experiment", "open question", "next check"]
    statement: str
    source: str = Field(description="where the paper says so")
    published: Published | None = Field(default=None, description="only a number that was verified")
    measure: Measure | None = Field(default=None, description="none where this repository has no measurement of it")
    unit: str | None = Field(default=None, description="of the measured number")
    test: Test | None = None
    scales: tuple[ScaleName, ...] = Field(description="at which a run is large enough to judge it")
    otherwise: str = Field(min_length=1, description="what would test it where it can't be judged")
    absent: str | None = Field(default=None, description="why the rows may be missing, and what brings them")
    figure: str | None = Field(default=None, pattern=r"^\w+/\w+$", description="study/figure that shows it")
    code: str | None = Field(
        default=None, pattern=r"^[\w/]+\.py$", description="the module that computes it, below src/diffusion_density"
    )

    @field_validator("scales")
    @classmethod
    def _distinct(cls, scales: tuple[ScaleName, ...]) -> tuple[ScaleName, ...]:
        if len(set(scales)) < len(scales):
            raise ValueError("names a scale twice")
        return scales

    @model_validator(mode="after")
    def _whole(self) -> "Claim":
        if not self.id.startswith(self.paper):
            raise ValueError(f"{self.id} must start with its paper, {self.paper}")
        parts = (self.measure, self.unit, self.test, self.figure, self.code)
        if None in parts and (any(part is not None for part in parts) or self.scales):
            raise ValueError("needs measure, unit, test, figure and code, or none of them and no scales")
        return self

    @property
    def tables(self) -> set[str]:
        """The tables that it is measured on, as study/table."""
        if self.measure is None:
            return set()
        against = getattr(self.measure, "against", None)
        return {self.measure.table, *([against.table] if isinstance(against, Cells) and against.table else [])}


class Sentence(Strict):
    """A sentence of a paper's reading, which is printed where the verdicts are as it needs them.

    ``{A3}`` in the text becomes the measured number of that claim with its interval.
    """

    when: dict[ID, Verdict] = Field(min_length=1)
    text: str

    @model_validator(mode="after")
    def _numbers_exist(self) -> "Sentence":
        for name in placeholders(self.text):
            if self.when.get(name, "not tested at this scale") == "not tested at this scale":
                raise ValueError(f"shows the number of {name}, so it must say which verdict of {name} it needs")
        return self


def placeholders(text: str) -> list[str]:
    """The claims whose numbers a sentence shows."""
    return [name for _, name, _, _ in Formatter().parse(text) if name]


class Claims(Strict):
    """The file ``workflow/claims.yaml``."""

    claims: tuple[Claim, ...] = Field(min_length=1)
    readings: dict[Paper, tuple[Sentence, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice")
        named = {name for sentences in self.readings.values() for sentence in sentences for name in sentence.when}
        if unknown := sorted(named - set(ids)):
            raise ValueError(f"readings name {', '.join(unknown)}, which is no claim")
        return self

    @property
    def tables(self) -> list[str]:
        """The tables that are read, as study/table."""
        return sorted(set().union(*(claim.tables for claim in self.claims)))

    @property
    def figures(self) -> list[str]:
        """The figures that are linked, as study/figure."""
        return sorted({claim.figure for claim in self.claims if claim.figure})

    def of_names(self, names: Sequence[str]) -> "Claims":
        """Only these claims, without readings.

        Raises:
            InputError: for a name that no claim has.
        """
        if unknown := sorted(set(names) - {claim.id for claim in self.claims}):
            raise InputError(f"no claim is named {', '.join(unknown)}")
        return Claims(claims=tuple(claim for claim in self.claims if claim.id in names), readings={})

    def of(self, paper: Paper) -> Sequence[Claim]:
        """The claims of one paper, in the order of the file."""
        return [claim for claim in self.claims if claim.paper == paper]


def read_claims(file: Path) -> Claims:
    """Read and check the claims of the papers.

    Raises:
        InputError: for a file that can't be read, a wrong key or a wrong value.
    """
    return checked(Claims, read_yaml(file), file)
