"""The verbs of the claims, for the workflow's rules and for people, who need ``compare`` and ``collect``."""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.claims.definition import ScaleName, read_claims
from diffusion_density.machine.artifacts import settings_hash
from diffusion_density.machine.provenance import recording
from diffusion_density.studies.job import Out

verbs = typer.Typer(
    help="The papers' claims: what its workflow rules call, and the table of a README.", no_args_is_help=True
)
CLAIMS_FILE = Path("workflow/claims.yaml")
File = Annotated[Path, typer.Option("--claims", help="The claims and how they are judged.")]
Results = Annotated[Path, typer.Option(help="The folder results/<scale> of a run.")]


@verbs.command()
def judge(
    results: Results,
    scale: Annotated[ScaleName, typer.Option()],
    out: Out,
    claims: File = CLAIMS_FILE,
    only: Annotated[list[str] | None, typer.Option(help="A claim; may be repeated. All, if not given.")] = None,
) -> None:
    """Judge the claims from the tables of a run."""
    from diffusion_density.claims import verdicts

    found = read_claims(claims)
    if only:
        found = found.of_names(only)
    settings = {"claims_sha256": settings_hash(found.model_dump(mode="json")), "scale": scale}
    with recording([out], settings=settings):
        verdicts.judge(found, results, scale, out)


@verbs.command()
def page(
    table: Annotated[Path, typer.Argument(help="The verdicts that `judge` wrote.")],
    results: Results,
    out: Out,
    brief: Annotated[Path, typer.Option(help="The page without figures and links, for Snakemake's report.")],
    claims: File = CLAIMS_FILE,
    report: Annotated[Path, typer.Option(help="Folder of the template and the captions.")] = Path("workflow/report"),
) -> None:
    """Write the claims page, with figures and readings."""
    from diffusion_density.claims import page as pages

    found = read_claims(claims)
    with recording([out, brief], settings={"table": str(table)}):
        pages.write(found, table, results, report, out)
        pages.write(found, table, results, report, brief, brief=True)


@verbs.command()
def table(
    verdicts: Annotated[Path, typer.Argument(help="The verdicts that `judge` wrote.")], claims: File = CLAIMS_FILE
) -> None:
    """Print the verdicts as Markdown: counts of each paper, and what did not replicate."""
    from diffusion_density.claims import page as pages

    found = read_claims(claims)
    typer.echo(pages.markdown(found, pages.read(found, verdicts)), nl=False)


def compare(
    run: Annotated[Path, typer.Argument(help="The folder results/<scale> of a new run.")],
    reference: Annotated[Path, typer.Argument(help="What to hold it against.")] = Path("results/reference"),
) -> None:
    """Say what moved beyond its error between two runs; exit with 1 if something did."""
    from diffusion_density.claims import comparison

    found = comparison.compare(run, reference)
    typer.echo("\n".join(found.lines))
    raise typer.Exit(1 if found.moved else 0)


def collect(
    run: Annotated[Path, typer.Argument(help="The folder results/<scale> of a run.")],
    out: Annotated[Path, typer.Option(help="The folder to make anew.")] = Path("results/reference"),
) -> None:
    """Collect tables, figures, claims and provenance of a run, small enough for git."""
    from diffusion_density.claims import reference

    size = reference.collect(run, out)
    typer.echo(f"{out}: {size / 2**20:.1f} MiB")
