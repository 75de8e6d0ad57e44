"""The claims page: one HTML file that needs no other, with or without figures, and the claims as Markdown.

A paper's paragraph is made of counts and of those sentences of the claims file whose verdicts are this run's, so that
it can't contradict the table below it. Links to tables and source code are relative to ``results/<scale>/claims.html``.
Inside of Snakemake's report, which has the figures, stands a page without them: browsers show none above 2 MiB there.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from diffusion_density.claims.definition import VERDICTS, Claim, Claims, Paper, Verdict
from diffusion_density.claims.verdicts import COLUMNS
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.studies.declaration import caption as caption_of
from diffusion_density.studies.shared.tables import records

TITLES: Mapping[Paper, str] = {
    "A": "Diffusion Density Estimators",
    "B": "A Score-Based Density Formula",
    "C": "Diffusion Models as Cartoonists, and Density Guidance",
    "D": "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs",
}
SYMBOLS: Mapping[Verdict, str] = dict(zip(VERDICTS, "✓✗≈–", strict=True))
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Judged = Mapping[str, Any]
"""The rows of the table of verdicts, by claim."""


def write(claims: Claims, table: Path, results: Path, report: Path, out: Path, *, brief: bool = False) -> None:
    """Write the page.

    Args:
        claims: the claims that were judged.
        table: their verdicts.
        results: the folder ``results/<scale>`` with the figures.
        report: the folder of the page's template.
        out: the HTML to write.
        brief: whether to leave out figures and links.

    Raises:
        InputError: if a file is missing, or the verdicts are not those of these claims.
    """
    judged = read(claims, table)
    scale = next(iter(judged.values())).scale
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(artifacts.read_text(report / "claims.html.jinja")).render(
        title=f"Claims of four papers, judged at scale {scale}",
        verdicts=VERDICTS,
        symbols=SYMBOLS,
        papers=[_paper(claims, judged, paper) for paper in TITLES],
        figures=[] if brief else [_figure(claims, figure, results) for figure in claims.figures],
    )
    artifacts.write_text(out, page + "\n")


def read(claims: Claims, table: Path) -> Judged:
    """The verdicts by claim.

    Raises:
        InputError: if they are not those of these claims.
    """
    judged = {row.id: row for row in records(artifacts.read_csv(table, COLUMNS))}
    if list(judged) != [claim.id for claim in claims.claims]:
        raise InputError(f"{table}: does not hold the claims of this claims file; make it anew")
    return judged


def reading(claims: Claims, judged: Judged, paper: Paper) -> str:
    """The paragraph on one paper: counts, and the sentences that these verdicts support."""
    numbers = dict(zip(VERDICTS, counts(claims, judged, paper), strict=True))
    total = sum(numbers.values())
    opening = f"Verdicts on {total} claims: {', '.join(f'{number} {verdict}' for verdict, number in numbers.items())}."
    shown = {name: measured(row) for name, row in judged.items()}
    sentences = [
        sentence.text.format(**shown)
        for sentence in claims.readings.get(paper, ())
        if all(judged[name].verdict == verdict for name, verdict in sentence.when.items())
    ]
    return " ".join([opening, *sentences])


def counts(claims: Claims, judged: Judged, paper: Paper) -> list[int]:
    """How many claims of a paper have each verdict, in the order of `VERDICTS`."""
    found = [judged[claim.id].verdict for claim in claims.of(paper)]
    return [found.count(verdict) for verdict in VERDICTS]


def markdown(claims: Claims, judged: Judged) -> str:
    """The verdicts for a README: counts of each paper, and what did not replicate."""
    lines = [f"| paper | {' | '.join(VERDICTS)} |", f"|---|{'---|' * len(VERDICTS)}"]
    for paper, title in TITLES.items():
        numbers = " | ".join(map(str, counts(claims, judged, paper)))
        lines.append(f"| {paper}: {title} | {numbers} |")
    lines += ["", "Not replicated:", ""]
    for name, row in judged.items():
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
    """Three digits, with a minus sign and powers of ten as they are printed."""
    text = f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}" if e else text


def _paper(claims: Claims, judged: Judged, paper: Paper) -> dict[str, object]:
    return {
        "letter": paper,
        "title": TITLES[paper],
        "counts": counts(claims, judged, paper),
        "reading": reading(claims, judged, paper),
        "rows": [_row(claim, judged[claim.id]) for claim in claims.of(paper)],
    }


def _row(claim: Claim, row: Any) -> dict[str, object]:  # noqa: ANN401 (a named tuple of pandas)
    return {
        "id": claim.id,
        "kind": claim.kind,
        "statement": claim.statement,
        "source": claim.source,
        "published": number(claim.published.value) if claim.published else "none",
        "read_in": claim.published.read_in if claim.published else "",
        "measured": measured(row),
        "unit": "" if pd.isna(row.measured) else claim.unit,
        "verdict": row.verdict,
        "symbol": SYMBOLS[row.verdict],
        "rank": VERDICTS.index(row.verdict),
        "reason": row.reason,
        "figure": claim.figure,
        "anchor": claim.figure and _anchor(claim.figure),
        "evidence": row.evidence,
        "code": f"../../src/diffusion_density/{claim.code}",
    }


def _figure(claims: Claims, figure: str, results: Path) -> dict[str, object]:
    study, _, name = figure.partition("/")
    drawing = artifacts.read_text(results / study / "figures" / f"{name}.svg")
    caption = plain(artifacts.read_text(caption_of(study, name)))
    return {
        "anchor": _anchor(figure),
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
