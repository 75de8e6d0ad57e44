"""The command ``job``: run one experiment of a study, and record where its outputs come from.

Wrong arguments are reported before torch is imported.
"""

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_density.machine.errors import InputError
from diffusion_density.machine.provenance import recording
from diffusion_density.machine.validation import parse
from diffusion_density.studies.declaration import study_of

Out = Annotated[Path, typer.Option(help="The file to write.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


def job(
    study: Annotated[str, typer.Argument(help="The study, such as density_formula.")],
    experiment: Annotated[str, typer.Argument(help="One of its experiments.")],
    output: Annotated[list[str], typer.Option(help="NAME=PATH of a file to write; once for each output.")],
    given: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=PATH of a file to read; once for each input.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="JSON of the experiment's sizes.")] = "{}",
    data_dir: Annotated[Path, typer.Option(help="Folder of the archives of images.")] = Path("data"),
    work: Annotated[Path, typer.Option(help="Folder for what an interrupted job continues from.")] = Path("work"),
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to use; 0 means the processor.")] = 0,
    devices: Annotated[int, typer.Option(min=1, help="Processes on each machine; one GPU each, if there are any.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, if a launcher started the processes.")] = 1,
    threads: Threads = 1,
) -> None:
    """Run an experiment of a study. The rules of the workflow call this command."""
    experiments = study_of(study).experiments
    if experiment not in experiments:
        raise InputError(f"{study} has no experiment {experiment!r}; it has {', '.join(experiments)}")
    declared = experiments[experiment]
    chosen = parse(declared.sizes, sizes, "--sizes")
    inputs = _files("--input", given or [], declared.inputs)
    outputs = _files("--output", output, declared.outputs)

    from diffusion_density.machine.runtime import configure

    configure(max(1, threads // devices))
    settings: dict[str, Any] = {"study": study, "experiment": experiment, "sizes": chosen.model_dump(mode="json")}
    if declared.on_images:
        from diffusion_density.data.images import load

        images = load(chosen.dataset, data_dir, download=False)  # type: ignore[attr-defined]
        settings["images"] = dict(images.sha256)
    with recording(list(outputs.values()), settings=settings, seeds=getattr(chosen, "seeds", ())):
        module = import_module(f"diffusion_density.studies.{study}.experiments.{experiment}")
        if declared.on_images:
            from diffusion_density.machine.devices import open_available
            from diffusion_density.studies.shared.inputs import ImageInputs

            opened = open_available(gpus, devices, nodes)
            spent = module.run(chosen, ImageInputs(images, inputs, opened, work), outputs)
            if opened.global_rank > 0:  # the first process writes and records
                raise typer.Exit
        else:
            spent = module.run(chosen, inputs, outputs)
    if spent:  # removed last, so that a job that is killed at any moment finds it again
        shutil.rmtree(spent)


def _files(option: str, given: Sequence[str], names: Sequence[str] | None) -> dict[str, Path]:
    """The files by name.

    Raises:
        InputError: if something is not NAME=PATH, or the names are not those that the experiment declares.
    """
    pairs = [text.partition("=") for text in given]
    files = {name: Path(path) for name, separator, path in pairs if separator and path}
    if len(files) < len(given):
        raise InputError(f"{option}: NAME=PATH is expected, with a different name each time, got {' '.join(given)}")
    if names is not None and files.keys() != set(names):
        raise InputError(f"{option}: expected {', '.join(names) or 'none'}, got {', '.join(files) or 'none'}")
    return files
