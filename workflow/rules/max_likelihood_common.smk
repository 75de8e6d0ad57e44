import math

from diffusion_density.data import catalogue

ML = SCALE.max_likelihood
ML_MODULE = "diffusion_density.studies.max_likelihood.experiments"
# The image sets that are there by slug, and the names of those that are not.
ML_PRESENT = {
    catalogue.slug(name): name
    for name in CONFIG.datasets
    if not catalogue.how_to_get(name, CONFIG.data_dir)
}
ML_ABSENT = [name for name in CONFIG.datasets if catalogue.slug(name) not in ML_PRESENT]
ML_RUNS = ML.runs(CONFIG.seeds, ML_PRESENT)
ML_EVALUATIONS = ML.evaluations(ML_RUNS)
ML_SAMPLED = [run for run in ML_EVALUATIONS if not run.startswith("finetuning-")]
ML_SETS = {
    catalogue.slug(run.dataset): run.dataset for run in ML_RUNS.values()
} | ML_PRESENT
# The variances are measured on both paths.
ML_NOISE = [f"ablation-velocity-{path}-importance" for path in ("vp", "straight")]
ML_FINETUNED = [
    ML.reference,
    *(run for run in ML_RUNS if run.startswith("finetuning-")),
]
# Runs whose bits/dim are followed along training, each group on one image set.
ML_GROUPS = {
    group: [run for run in ML_RUNS if run.startswith(f"{group}-")]
    for group in ("ablation", "predictions")
}
# What several runs are measured on: the table, the runs and the sizes.
ML_EXAMINATIONS = {
    "curves": (
        "curves/{group}",
        lambda wildcards: ML_GROUPS[wildcards.group],
        ML.curve,
    ),
    "variance": ("variance", lambda wildcards: ML_NOISE, ML.variance),
    "trace": ("trace", lambda wildcards: ML_FINETUNED, ML.trace),
}
# Tables made of parts, by the runs or sets that the parts are of.
ML_PARTS = {
    "curves": list(ML_GROUPS),
    "likelihood": list(ML_EVALUATIONS),
    "samples": ML_SAMPLED,
    "coders": list(ML_SETS),
}
# Each figure with the tables that it reads, as in diffusion_density.studies.max_likelihood.figures.
ML_FIGURES = {
    "bits_per_dim": ["findings", "coders"],
    "convergence": ["curves", "findings"],
    "predictions": ["curves"],
    "noise": ["findings"],
    "dequantization": ["gaps", "findings"],
    "finetuning": ["findings", "trace"],
    "samples": ["samples"],
}
ML_TABLES = sorted(
    {table for tables in ML_FIGURES.values() for table in tables} | {"datasets"}
)

for ml_name in ML_ABSENT:
    print(
        f"image set {ml_name} is absent and left out: {catalogue.how_to_get(ml_name, CONFIG.data_dir)}",
        file=sys.stderr,
    )


def ml_table(name):
    return f"results/{{scale}}/max_likelihood/tables/{name}.csv"


def ml_description(wildcards):
    slug = catalogue.slug(ML_RUNS[wildcards.run].dataset)
    return f"results/{wildcards.scale}/max_likelihood/data/{slug}.json"


def ml_spec(wildcards):
    return ML_RUNS[wildcards.run].model_dump_json()


def ml_origin(wildcards):
    origin = ML_RUNS[wildcards.run].origin
    return expand(ml_models([origin] if origin else []), scale=wildcards.scale)


def ml_origin_options(wildcards, input):
    origin = ML_RUNS[wildcards.run].origin
    if not origin:
        return ""
    spec = ML_RUNS[origin].model_dump_json()
    return f"--origin {input.origin} --origin-spec {shlex.quote(spec)}"


def ml_models(runs):
    return [
        f"results/{{scale}}/max_likelihood/models/{run}.safetensors" for run in runs
    ]


def ml_several_models(runs):
    """The networks of several runs, which may depend on the wildcards."""

    def models(wildcards):
        return expand(ml_models(runs(wildcards)), scale=wildcards.scale)

    return models


def ml_several_options(runs):
    """What names them, their settings and their networks on a command line."""

    def options(wildcards, input):
        specs = [ML_RUNS[run].model_dump_json() for run in runs(wildcards)]
        pairs = zip(specs, input.models, strict=True)
        files = (f"--spec {shlex.quote(spec)} --models {file}" for spec, file in pairs)
        return " ".join([*runs(wildcards), *files])

    return options


def ml_priority(wildcards, input, attempt):
    """Long runs start first: 32×32 images before digits, and what others go on from before the rest."""
    run = ML_RUNS[wildcards.run]
    return 100 + (run.dataset != "digits") * 100 + (wildcards.run == ML.reference) * 50


def ml_devices(wildcards):
    """Processes of a training job: of the large networks as many as the configuration says."""
    return CONFIG.devices if wildcards.run.startswith(("main-", "tuned-")) else 1


def ml_gpus(wildcards):
    """GPUs of a training job: one for each of its processes, at paper scale."""
    return GPU * ml_devices(wildcards)


def ml_gpu_hours(wildcards):
    """Hours of one GPU that a training job will take at paper scale, by its counted operations."""
    from diffusion_density.studies.max_likelihood.costs import cost

    return cost(ML_RUNS[wildcards.run], CONFIG.data_dir).gpu_hours


def ml_runtime(wildcards, attempt):
    """Minutes of a training job: twice what is expected, and no more at a retry, which goes on from a checkpoint."""
    if CONFIG.scale != "paper":
        return {"smoke": 5, "desk": 30}[CONFIG.scale]
    return math.ceil(60 + 2 * 60 * ml_gpu_hours(wildcards) / ml_devices(wildcards))


def ml_threads(wildcards):
    """Threads of a training job."""
    return ML.main.threads if wildcards.run.startswith(("main-", "tuned-")) else 1
