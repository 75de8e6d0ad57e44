import os
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from diffusion_density.commands.config import read_config, read_scale
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.sources import SOURCE_ROOT, sources_hash
from diffusion_density.studies.declaration import caption, studies

# The folder of this workflow, whichever file includes it or uses it as a module.
WORKFLOW = Path(os.path.relpath(workflow.current_basedir.get_path_or_uri(secret_free=True))).parent
# The environment of every rule, for `--software-deployment-method conda`.
ENVIRONMENT = str((WORKFLOW / "../envs/environment.yaml").resolve())

try:
    CONFIG = read_config(config, workflow.config_settings.overwrite_config)
    SCALE = read_scale(CONFIG.scale, WORKFLOW / "scales")
except InputError as error:
    sys.exit(f"error: {error}")

# What jobs ask for that use a GPU where there is one: none below paper scale, where they take a minute.
GPU = 1 if CONFIG.scale == "paper" else 0
GPU_MODEL = CONFIG.gpu_model if GPU else None

# Jobs run in the environment that runs Snakemake, also where it is not activated; or in that of conda, which has all
# packages but this one.
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    shell.prefix(f"set -euo pipefail; export PYTHONPATH={SOURCE_ROOT}; ")
else:
    shell.prefix(f"set -euo pipefail; export PATH={Path(sys.executable).parent}:$PATH; ")


wildcard_constraints:
    scale=CONFIG.scale,


def by_scale(smoke, desk, paper):
    """An amount of a resource: one number for each scale, doubled at every retry."""
    amount = {"smoke": smoke, "desk": desk, "paper": paper}[CONFIG.scale]

    def resource(wildcards, attempt):
        return amount * 2 ** (attempt - 1)

    return resource


def needs(megabytes, minutes, gpu=0):
    """The resources of a job, with memory and time by scale."""
    model = {"gpu_model": GPU_MODEL} if gpu else {}
    return {
        "gpu": gpu,
        "mem_mb": by_scale(*megabytes),
        "runtime": by_scale(*minutes),
    } | model


LITTLE = {"gpu": 0, "mem_mb": 500, "runtime": 5}
CONCAT = "python -m diffusion_density concat {input} --out {output} 2>&1 | tee {log}"


def results(study, *names):
    """Paths of results of a study, such as ``tables/bias.csv``, of any scale."""
    return [f"results/{{scale}}/{study}/{name}" for name in names]


def targets(study, *names):
    """All figures of a study, and other results, at the scale of the configuration."""
    figures = [f"figures/{name}.{kind}" for name in studies()[study].figures for kind in ("svg", "png")]
    return expand(results(study, *figures, *names), scale=CONFIG.scale)


def named_files(wildcards, input, output):
    """The named inputs and outputs of a job on its command line. Inputs without a name are only waited for."""
    options = []
    for option, files in (("--input", input), ("--output", output)):
        options += [f"{option} {name}={path}" for name, path in files.items() if path]
    return " ".join(options)


def job(study, experiment, sizes=None):
    """The parameters of a rule that runs an experiment; its sizes may depend on the wildcards.

    They hold the hash of the source files that the experiment uses, so that it runs again when these change.
    """
    given = sizes if callable(sizes) else lambda wildcards: sizes
    data_dir = {"data_dir": CONFIG.data_dir} if studies()[study].experiments[experiment].on_images else {}
    return {
        "job": f"{study} {experiment}",
        "sizes": ((lambda wildcards: given(wildcards).model_dump_json()) if sizes else "{}"),
        "files": named_files,
        "code": sources_hash(f"diffusion_density.studies.{study}.experiments.{experiment}"),
    } | data_dir


def command(*options, threads="{threads}"):
    """The shell command of a rule with the parameters of `job`."""
    start = "python -m diffusion_density job {params.job} --sizes {params.sizes:q} {params.files}"
    return " ".join([start, *options, f"--threads {threads} 2>&1 | tee {{log}}"])


RUN = command()
ON_IMAGES = "--data-dir {params.data_dir:q} --gpus {resources.gpu}"
RUN_ON_IMAGES = command(ON_IMAGES)

JOBS_WITHOUT_INPUTS = []


def jobs_without_inputs(study, sizes, paper_mb, paper_minutes, urgency=0):
    """Ask for a rule (see jobs.smk) for each of some experiments, given by name with their sizes.

    Their outputs are tables of the study; memory and time are those at paper scale.
    """
    JOBS_WITHOUT_INPUTS.extend(
        (study, name, chosen, paper_mb, paper_minutes, urgency) for name, chosen in sizes.items()
    )


# What the figures of a study read in addition to its tables.
FIGURE_FILES = {}
