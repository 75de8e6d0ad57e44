"""The claims page: one HTML file that needs no other, with or without figures; and the verdicts as Markdown.

A paper's summary holds counts, and those sentences of the claims file whose verdicts are the verdicts of this run, so
that it can't contradict the table below it. Links to tables and source code are relative to
``results/<scale>/claims.html``. Snakemake's report has the figures itself and includes the page without them, since
browsers show no included page above 2 MiB.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from diffusion_density.claims.definition import VERDICTS, Claims, Paper, Verdict
from diffusion_density.claims.verdicts import COLUMNS
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.declaration import caption as caption_of
from diffusion_density.studies.declaration import studies
from diffusion_density.studies.shared.tables import records

SYMBOLS: Mapping[Verdict, str] = dict(zip(VERDICTS, "✓✗≈–", strict=True))
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Judged:
    """The claims, and by claim its row in the table of verdicts."""

    claims: Claims
    rows: Mapping[str, Any]

    @property
    def titles(self) -> dict[Paper, str]:
        """The titles of the papers that have claims, by letter."""
        found = {study.letter: study.title for study in studies().values() if self.claims.by(study.letter)}
        return dict(sorted(found.items()))

    def counts(self, paper: Paper) -> list[int]:
        """How many claims of a paper have each verdict, in the order of `VERDICTS`."""
        found = [self.rows[claim.id].verdict for claim in self.claims.by(paper)]
        return [found.count(verdict) for verdict in VERDICTS]

    def summary(self, paper: Paper) -> str:
        """The paragraph on one paper: counts, and the sentences that these verdicts support."""
        counts = self.counts(paper)
        numbers = ", ".join(f"{number} {verdict}" for number, verdict in zip(counts, VERDICTS, strict=True))
        sentences = [
            sentence.text.format(**{name: measured(self.rows[name]) for name in sentence.when})
            for sentence in self.claims.summaries.get(paper, ())
            if all(self.rows[name].verdict == verdict for name, verdict in sentence.when.items())
        ]
        return " ".join([f"Verdicts on {sum(counts)} claims: {numbers}.", *sentences])


def read(claims: Claims, table: Path) -> Judged:
    """The verdicts by claim.

    Raises:
        InputError: if they are not those of these claims.
    """
    rows = {row.id: row for row in records(artifacts.read_csv(table, COLUMNS))}
    if list(rows) != [claim.id for claim in claims.claims]:
        raise InputError(f"{table}: does not hold the claims of this claims file; judge them again")
    return Judged(claims, rows)


def write(judged: Judged, results: Path, report: Path, out: Path, *, figures: bool = True) -> None:
    """Write the page.

    Args:
        judged: the claims and their verdicts.
        results: the folder ``results/<scale>`` with the figures.
        report: the folder of the page's template.
        out: the HTML to write.
        figures: whether to include figures and links to files.

    Raises:
        InputError: if a file is missing.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "measured": measured, "anchor": _anchor}
    page = environment.from_string(artifacts.read_text(report / "claims.html.jinja")).render(
        title=f"Claims of four papers, judged at scale {next(iter(judged.rows.values())).scale}",
        verdicts=VERDICTS,
        symbols=SYMBOLS,
        papers=judged.titles,
        judged=judged,
        figures=[_figure(judged.claims, name, results) for name in judged.claims.figures if figures],
    )
    artifacts.write_text(out, page + "\n")


def markdown(judged: Judged) -> str:
    """The verdicts for a README: counts of each paper, and what did not replicate."""
    lines = [f"| paper | {' | '.join(VERDICTS)} |", f"|---|{'---|' * len(VERDICTS)}"]
    for paper, title in judged.titles.items():
        lines.append(f"| {paper}: {title} | {' | '.join(map(str, judged.counts(paper)))} |")
    lines += ["", "Not replicated:", ""]
    for name, row in judged.rows.items():
        if row.verdict == "not replicated":
            lines.append(f"* {name}: {row.statement} Measured: {measured(row)} ({row.unit}).")
    return "\n".join(lines) + "\n"


def measured(row: Any) -> str:  # noqa: ANN401 (a named tuple of pandas)
    """The measured number with its interval, to three digits."""
    if pd.isna(row.measured):
        return "none"
    if pd.isna(row.ci_low) or row.ci_low == row.ci_high:
        return number(row.measured)
    return f"{number(row.measured)} [{number(row.ci_low)}, {number(row.ci_high)}]"


def number(value: float) -> str:
    """Three digits, with a minus sign and powers of ten as in print."""
    text = f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}" if e else text


def _figure(claims: Claims, figure: str, results: Path) -> dict[str, object]:
    study, _, name = figure.partition("/")
    drawing = artifacts.read_text(results / study / "figures" / f"{name}.svg")
    caption = plain(artifacts.read_text(caption_of(study, name)))
    return {
        "name": figure,
        "data": base64.b64encode(drawing.encode()).decode(),
        "alt": f"Figure {name.replace('_', ' ')}: {caption.split('. ')[0].split('? ')[0].rstrip('.?')}",
        "caption": caption,
        "claims": [claim.id for claim in claims.claims if claim.figure == figure],
    }


def plain(caption: str) -> str:
    """A caption without the markup of reStructuredText."""
    text = re.sub(r"`([^`<]+?)\s*<[^>]*>`_", r"\1", caption)
    return " ".join(re.sub(r"``|\*\*|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w)", "", text).split())


def _anchor(figure: str) -> str:
    return f"figure-{figure.replace('/', '-')}"
