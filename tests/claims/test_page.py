"""The page shows what the verdicts say, is whole without other files, and its summaries never contradict the data."""

import random
import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from diffusion_density.claims import page, verdicts
from diffusion_density.claims.definition import VERDICTS, Verdict, read_claims
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference"
REPORT = ROOT / "workflow" / "report"
CLAIMS = read_claims(ROOT / "workflow" / "claims.yaml")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@dataclass
class Row:
    """What a summary reads of a verdict."""

    verdict: Verdict
    measured: float
    ci_low: float
    ci_high: float


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verdicts as if each claim had the next one of the list, next to the figures."""
    folder = tmp_path_factory.mktemp("results")
    rows = []
    for i, claim in enumerate(CLAIMS.claims):
        verdict = VERDICTS[i % 4]
        measured = None if verdict == "not tested at this scale" else 1e-5 * (i - 3)
        row: dict[str, object] = {name: getattr(claim, name, None) for name in verdicts.COLUMNS}
        row |= {"published": None, "measured": measured, "verdict": verdict, "scale": "desk", "reason": "as it is"}
        row |= {"ci_low": measured and measured - 1, "ci_high": measured and measured + 1}
        rows.append(row | {"evidence": "a/tables/b.csv", "quantity": "q"})
    artifacts.write_csv(folder / "claims.csv", pd.DataFrame(rows, columns=verdicts.COLUMNS))
    for figure in CLAIMS.figures:
        study, _, name = figure.partition("/")
        (folder / study / "figures").mkdir(parents=True, exist_ok=True)
        (folder / study / "figures" / f"{name}.svg").write_text(SVG)
    return folder / "claims.csv"


def written(table: Path, figures: bool = True) -> str:
    out = table.with_name("claims.html")
    page.write(page.read(CLAIMS, table), table.parent, REPORT, out, figures=figures)
    return out.read_text()


def test_the_page_holds_every_claim_with_its_verdict(table: Path) -> None:
    text = written(table)
    for i, claim in enumerate(CLAIMS.claims):
        row = re.search(rf'<tr id="{claim.id}".*?</tr>', text, re.DOTALL)
        assert row
        verdict = VERDICTS[i % 4]
        assert f"{page.SYMBOLS[verdict]} {verdict}</span>" in row[0], "a word and a sign, not a colour alone"
        assert "as it is" in row[0]
    assert "{{" not in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().split()


def test_the_page_is_accessible_and_needs_no_other_file(table: Path) -> None:
    elements = Elements()
    elements.feed(written(table))
    assert elements.all("html")[0]["lang"] == "en"
    assert {"title", "h1", "main", "caption"} <= {tag for tag, _ in elements.found}
    assert all(header["scope"] in ("row", "col") for header in elements.all("th"))
    images = elements.all("img")
    assert len(images) == len(CLAIMS.figures)
    assert all(len(image["alt"] or "") > 20 and (image["src"] or "").startswith("data:") for image in images)
    assert not elements.all("script")
    assert [link["href"] for link in elements.all("link")] == ["data:,"]
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    inner = [link["href"] or "" for link in elements.all("a") if (link["href"] or "").startswith("#")]
    assert {link[1:] for link in inner} <= set(ids)


def test_the_page_without_figures_names_its_evidence_and_has_no_links_to_files(table: Path) -> None:
    text = written(table, figures=False)
    elements = Elements()
    elements.feed(text)
    assert not elements.all("img")
    assert all((link["href"] or "").startswith("#") for link in elements.all("a"))
    for claim in CLAIMS.claims:
        row = re.search(rf'<tr id="{claim.id}".*?</tr>', text, re.DOTALL)
        assert row
        assert not claim.figure or f"figure {claim.figure}, table a/tables/b.csv" in row[0]


@pytest.mark.parametrize("seed", range(20))
def test_a_summary_says_what_the_verdicts_say(seed: int) -> None:
    """Whatever the verdicts: a sentence is there, with its numbers, exactly if all verdicts that it needs are."""
    chosen = random.Random(seed)  # noqa: S311 (no secret)
    rows = {claim.id: Row(chosen.choice(VERDICTS), chosen.random(), 0.1, 0.9) for claim in CLAIMS.claims}
    measured = {name: page.measured(row) for name, row in rows.items()}
    for paper, sentences in CLAIMS.summaries.items():
        text = page.Judged(CLAIMS, rows).summary(paper)
        given = [row.verdict for name, row in rows.items() if name[0] == paper]
        numbers = ", ".join(f"{given.count(verdict)} {verdict}" for verdict in VERDICTS)
        assert text.startswith(f"Verdicts on {len(given)} claims: {numbers}.")
        for sentence in sentences:
            shown = sentence.text.format(**measured)
            holds = all(rows[name].verdict == verdict for name, verdict in sentence.when.items())
            assert (shown in text) == holds


def test_numbers_are_printed_as_people_write_them() -> None:
    assert page.number(-0.04567) == "−0.0457"
    assert page.number(2.5530e-12) == "2.55·10⁻¹²"
    assert page.measured(Row("replicated", 1.5, 1.5, 1.5)) == "1.5"
    assert page.measured(Row("replicated", 1.5, -1, 2)) == "1.5 [−1, 2]"
    assert page.measured(Row("inconclusive", 1.5, float("nan"), float("nan"))) == "1.5"


def test_captions_lose_their_markup() -> None:
    text = "**Bold?** A *word*, ``code`` and `a paper <https://x.org>`_;\nx * y."
    assert page.plain(text) == "Bold? A word, code and a paper; x * y."


def test_verdicts_of_other_claims_are_refused(table: Path, tmp_path: Path) -> None:
    artifacts.write_csv(tmp_path / "claims.csv", artifacts.read_csv(table).iloc[1:])
    with pytest.raises(InputError, match="does not hold the claims of this claims file"):
        page.read(CLAIMS, tmp_path / "claims.csv")
    with pytest.raises(InputError, match=r"claims\.csv: cannot be read"):
        page.read(CLAIMS, tmp_path / "absent" / "claims.csv")


def test_a_missing_figure_is_named(table: Path, tmp_path: Path) -> None:
    shutil.copytree(table.parent, tmp_path / "results")
    (tmp_path / "results/comparison/figures/variance.svg").unlink()
    with pytest.raises(InputError, match=r"variance\.svg: cannot be read"):
        written(tmp_path / "results" / "claims.csv")


@pytest.mark.parametrize(
    ("file", "name", "part"), [("README.md", "claims", 0), ("docs/results.md", "not replicated", 1)]
)
def test_the_tables_of_the_pages_are_those_of_the_reference(file: str, name: str, part: int) -> None:
    """What the command prints is a table, for the README, and a list, for the page of results."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", (ROOT / file).read_text(), re.DOTALL)
    assert found, f"{file} has no part between <!-- {name} --> and <!-- end of {name} -->"
    printed = page.markdown(page.read(CLAIMS, REFERENCE / "claims.csv"))
    parts = printed.removesuffix("\n").split("\n\nNot replicated:\n\n")
    assert found[1] == parts[part] + "\n", "run diffusion-density claims table results/reference/claims.csv"
