"""What a claim is: the types of the file ``workflow/claims.yaml``.

A claim is measured on a table of a run and judged by a test. A *measure* picks rows by a query of pandas, evaluates an
expression of columns in each of them, takes the mean over the rows of each *unit*, and combines the units:

* ``mean`` of the units; ``difference`` or ``ratio`` (geometric mean) of the units of two sets of rows, in pairs;
* ``slope`` of log value against log x in each unit, and the mean of the slopes;
* ``share`` of the units in which an expression is true in every row;
* ``stated``: one row that has its own interval or standard error, or the difference of two such rows;
* ``largest``, ``smallest`` and ``average`` of numbers without random error: the interval is the value itself.

The units (mixtures, seeds, images) are what an interval is over. A *test* is an interval of accepted values.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.validation import checked, read_yaml
from diffusion_density.studies.declaration import studies
from diffusion_density.studies.fields import Strict


def _declared(letter: str) -> str:
    letters = sorted(study.letter for study in studies().values())
    if letter not in letters:
        raise ValueError(f"must be the letter of a study: {', '.join(letters)}")
    return letter


Paper = Annotated[str, AfterValidator(_declared)]
ScaleName = Literal["smoke", "desk", "paper"]
Verdict = Literal["replicated", "not replicated", "inconclusive", "not tested at this scale"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
UNTESTED: Verdict = VERDICTS[-1]
Text = Annotated[str, Field(min_length=1)]
Expression = Text
"""Of columns, as `pandas.DataFrame.eval` reads it."""
Query = Text
"""Of rows, as `pandas.DataFrame.query` reads it."""
Table = Annotated[str, Field(pattern=r"^\w+/[\w/-]+$")]
"""A table below ``results/<scale>``, as study/table."""
ID = Annotated[str, Field(pattern=r"^[A-Z]\d+$")]


class Values(Strict):
    """An expression in rows of a table. Without a table or rows it is evaluated in those of the measure around it."""

    table: Table | None = None
    rows: Query | None = None
    value: Expression


class Measured(Values):
    """What every measure has; ``over`` says in words what its interval is over."""

    table: Table
    over: Text


class ByUnit(Measured):
    """A measure with an interval over units: the columns that tell them apart."""

    unit: tuple[str, ...] = Field(min_length=1)


class Mean(ByUnit):
    """The mean of the units."""

    take: Literal["mean"]


class Paired(ByUnit):
    """A comparison with other rows of the same units, or with another expression in the same rows."""

    take: Literal["difference", "ratio"]
    against: Values


class Share(ByUnit):
    """The share of the units in which ``value`` is true in every row."""

    take: Literal["share"]


class Slope(ByUnit):
    """The exponent k of value ∝ xᵏ in each unit, by least squares of the logarithms; ``x`` is a column.

    With ``against``, the value is the ratio to the other rows of the same unit and x.
    """

    take: Literal["slope"]
    x: Text
    against: Values | None = None


class Stated(Measured):
    """One row with its own interval, ``low`` and ``high``, or with its standard error ``stderr``.

    With ``minus``, the number of another row is subtracted, whose error is independent.
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
    """Numbers without random error, combined; ``over`` says why they have none. ``minus``: less that of other rows."""

    take: Literal["largest", "smallest", "average"]
    minus: Query | None = None


Measure = Annotated[Mean | Paired | Share | Slope | Stated | Exact, Field(discriminator="take")]


class Test(Strict):
    """Accepted values: ``above``, ``below``, ``within`` (ends included), or ``equal_to`` with a ``tolerance``."""

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
        return -math.inf if self.above is None else self.above, math.inf if self.below is None else self.below

    def judge(self, low: float, high: float) -> Verdict:
        """The verdict on an interval."""
        least, most = self.accepted
        open_below, open_above = self.above is not None, self.below is not None
        if (least < low if open_below else least <= low) and (high < most if open_above else high <= most):
            return "replicated"
        if (high <= least if open_below else high < least) or (most <= low if open_above else most < low):
            return "not replicated"
        return "inconclusive"

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
    """One statement of a paper, and how a run judges it.

    Attributes:
        source: where the paper says so.
        published: only a number that was verified.
        measure: none where this repository has no measurement of it; nor has it ``unit``, ``test``, … then.
        unit: of the measured number.
        scales: at which a run is large enough to judge it.
        needs: what would test it at the other scales.
        needs_data: what would test it where its rows are missing from the table.
        figure: that shows it, as study/figure.
        code: the module that computes it, below ``src/diffusion_density``.
    """

    id: ID
    paper: Paper
    kind: Literal["key result", "mechanism", "experiment", "open question", "next check"]
    statement: str
    source: str
    published: Published | None = None
    measure: Measure | None = None
    unit: str | None = None
    test: Test | None = None
    scales: tuple[ScaleName, ...]
    needs: Text | None = None
    needs_data: Text | None = None
    figure: str | None = Field(default=None, pattern=r"^\w+/\w+$")
    code: str | None = Field(default=None, pattern=r"^[\w/]+\.py$")

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
        if self.needs is None and len(self.scales) < len(get_args(ScaleName)):
            raise ValueError("must say what it needs at the scales that can't judge it")
        return self

    @property
    def tables(self) -> set[str]:
        """The tables that it is measured on, as study/table."""
        against = getattr(self.measure, "against", None)
        return {values.table for values in (self.measure, against) if values is not None and values.table}


class Sentence(Strict):
    """A sentence of a paper's summary, which is printed where all verdicts are as ``when`` says.

    ``{A3}`` in the text becomes the measured number of that claim with its interval.
    """

    when: dict[ID, Verdict] = Field(min_length=1)
    text: str

    @model_validator(mode="after")
    def _numbers_exist(self) -> "Sentence":
        for _, name, _, _ in Formatter().parse(self.text):
            if name and self.when.get(name, UNTESTED) == UNTESTED:
                raise ValueError(f"shows the number of {name}, so it must say which verdict of {name} it needs")
        return self


class Claims(Strict):
    """The file ``workflow/claims.yaml``."""

    claims: tuple[Claim, ...] = Field(min_length=1)
    summaries: dict[Paper, tuple[Sentence, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice")
        named = {name for sentences in self.summaries.values() for sentence in sentences for name in sentence.when}
        if unknown := sorted(named - set(ids)):
            raise ValueError(f"summaries name {', '.join(unknown)}, which is no claim")
        return self

    @property
    def tables(self) -> list[str]:
        """The tables that are read, as study/table."""
        return sorted(set().union(*(claim.tables for claim in self.claims)))

    @property
    def figures(self) -> list[str]:
        """The figures that are linked, as study/figure."""
        return sorted({claim.figure for claim in self.claims if claim.figure})

    def named(self, names: Sequence[str]) -> "Claims":
        """Only these claims, without summaries.

        Raises:
            InputError: for a name that no claim has.
        """
        if unknown := sorted(set(names) - {claim.id for claim in self.claims}):
            raise InputError(f"no claim is named {', '.join(unknown)}")
        return Claims(claims=tuple(claim for claim in self.claims if claim.id in names), summaries={})

    def by(self, paper: Paper) -> Sequence[Claim]:
        """The claims of one paper, in the order of the file."""
        return [claim for claim in self.claims if claim.paper == paper]


def read_claims(file: Path) -> Claims:
    """Read and check the claims of the papers.

    Raises:
        InputError: for a file that can't be read, a wrong key or a wrong value.
    """
    return checked(Claims, read_yaml(file), file)
