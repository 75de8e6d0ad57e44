"""The commands on claims: what the workflow's rules call, and ``compare`` and ``collect`` for people."""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_density.claims.definition import ScaleName, read_claims
from diffusion_density.machine.artifacts import settings_hash
from diffusion_density.machine.provenance import recording

verbs = typer.Typer(
    help="Judge the claims of the papers from the tables of a run, and show the verdicts.", no_args_is_help=True
)
CLAIMS_FILE = Path("workflow/claims.yaml")
REFERENCE = Path("results/reference")
File = Annotated[Path, typer.Option("--claims", help="The claims and how they are judged.")]
Run = Annotated[Path, typer.Argument(help="The folder results/<scale> of a run.")]
Results = Annotated[Path, typer.Option(help="The folder results/<scale> of a run.")]
Out = Annotated[Path, typer.Option(help="The file to write.")]
Verdicts = Annotated[Path, typer.Argument(help="The table of verdicts, which `judge` wrote.")]


@verbs.command()
def judge(
    results: Results,
    scale: Annotated[ScaleName, typer.Option(help="The scale of the run.")],
    out: Out,
    claims: File = CLAIMS_FILE,
    only: Annotated[list[str] | None, typer.Option(help="Judge this claim only; may be repeated.")] = None,
) -> None:
    """Judge the claims from the tables of a run."""
    from diffusion_density.claims import verdicts

    found = read_claims(claims)
    if only:
        found = found.named(only)
    settings = {"claims_sha256": settings_hash(found.model_dump(mode="json")), "scale": scale}
    with recording([out], settings=settings):
        verdicts.judge(found, results, scale, out)


@verbs.command()
def page(
    table: Verdicts,
    results: Results,
    out: Out,
    brief: Annotated[Path, typer.Option(help="The same page without figures and links, for Snakemake's report.")],
    claims: File = CLAIMS_FILE,
    report: Annotated[Path, typer.Option(help="The folder of the template.")] = Path("workflow/report"),
) -> None:
    """Write the claims page, with figures and summaries."""
    from diffusion_density.claims import page as pages

    judged = pages.read(read_claims(claims), table)
    with recording([out, brief], settings={"table": str(table)}):
        pages.write(judged, results, report, out)
        pages.write(judged, results, report, brief, figures=False)


@verbs.command()
def table(verdicts: Verdicts, claims: File = CLAIMS_FILE) -> None:
    """Print the verdicts as Markdown: counts for each paper, and the claims that were not replicated."""
    from diffusion_density.claims import page as pages

    typer.echo(pages.markdown(pages.read(read_claims(claims), verdicts)), nl=False)


def compare(
    run: Run,
    reference: Annotated[Path, typer.Argument(help="The run to compare it with.")] = REFERENCE,
) -> None:
    """List every number of a run that differs from a reference by more than its error; exit with 1 if there is one."""
    from diffusion_density.claims import comparison

    found = comparison.compare(run, reference)
    typer.echo("\n".join(found.lines))
    raise typer.Exit(1 if found.moved else 0)


def collect(
    run: Run,
    out: Annotated[Path, typer.Option(help="The folder to write; a reference that is there is replaced.")] = REFERENCE,
) -> None:
    """Copy tables, figures, verdicts and provenance of a run, in a size that fits into git."""
    from diffusion_density.claims import reference

    size = reference.collect(run, out)
    typer.echo(f"{out}: {size / 2**20:.1f} MiB")
