import re

from diffusion_density.data import catalogue
from diffusion_density.studies.max_likelihood import runs as ml_jobs
from diffusion_density.studies.max_likelihood.plan import Plan

ML = SCALE.max_likelihood
ML_PLAN = Plan(ML, CONFIG.seeds, CONFIG.datasets, CONFIG.data_dir, CONFIG.devices)
# What several runs are measured on, with the table that it writes.
ML_SEVERAL = {"curves": "curves/{kind}", "variance": "variance", "trace": "trace"}
FIGURE_FILES["max_likelihood"] = results("max_likelihood", *(f"samples/{run}.safetensors" for run in ML_PLAN.sampled))

for slug, way in ML_PLAN.absent.items():
    print(f"image set {slug} is absent and left out: {way}", file=sys.stderr)

# The description of the image set of a run, and the networks that it goes on from.
ML_DESCRIPTION = lambda wildcards: expand(
    results("max_likelihood", ML_PLAN.description(wildcards.run)), scale=wildcards.scale
)
ML_ORIGIN = lambda wildcards: [
    f"results/{wildcards.scale}/max_likelihood/models/{origin}.safetensors"
    for origin in [ML_PLAN.runs[wildcards.run].origin]
    if origin
]


wildcard_constraints:
    dataset="|".join(map(re.escape, ML_PLAN.sets)),
    kind="|".join(ML_PLAN.parts["curves"]),


rule max_likelihood:
    input:
        targets("max_likelihood", "tables/datasets.csv"),


rule max_likelihood_dataset:
    input:
        lambda wildcards: catalogue.files(ML_PLAN.sets[wildcards.dataset], CONFIG.data_dir),
    output:
        description="results/{scale}/max_likelihood/data/{dataset}.json",
    log:
        "logs/{scale}/max_likelihood/dataset/{dataset}.log",
    benchmark:
        "logs/{scale}/max_likelihood/dataset/{dataset}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 2000, 8000), (5, 10, 120)),
    params:
        **job(
            "max_likelihood",
            "dataset",
            lambda wildcards: ml_jobs.DatasetJob(dataset=ML_PLAN.sets[wildcards.dataset]),
        ),
    shell:
        RUN_ON_IMAGES


rule max_likelihood_lossless:
    input:
        rules.max_likelihood_dataset.output,
    output:
        table="results/{scale}/max_likelihood/tables/coders/{dataset}.csv",
    log:
        "logs/{scale}/max_likelihood/lossless/{dataset}.log",
    benchmark:
        "logs/{scale}/max_likelihood/lossless/{dataset}.tsv"
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 2000, 8000), (5, 10, 120)),
    params:
        **job(
            "max_likelihood",
            "lossless",
            lambda wildcards: ml_jobs.LosslessJob(dataset=ML_PLAN.sets[wildcards.dataset], count=ML.likelihood.images),
        ),
    shell:
        RUN_ON_IMAGES


rule max_likelihood_datasets:
    input:
        **{f"set-{slug}": f"results/{{scale}}/max_likelihood/data/{slug}.json" for slug in ML_PLAN.sets},
    output:
        datasets=report(
            "results/{scale}/max_likelihood/tables/datasets.csv",
            caption=str(caption("max_likelihood", "datasets")),
            category=studies()["max_likelihood"].category,
            labels={"figure": "table of image sets, present and absent"},
        ),
    log:
        "logs/{scale}/max_likelihood/datasets.log",
    benchmark:
        "logs/{scale}/max_likelihood/datasets.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    params:
        **job("max_likelihood", "datasets", ml_jobs.DatasetsJob(absent=ML_PLAN.absent)),
    shell:
        RUN


rule max_likelihood_train:
    input:
        ML_DESCRIPTION,
        origin=ML_ORIGIN,
    output:
        models="results/{scale}/max_likelihood/models/{run}.safetensors",
    log:
        "logs/{scale}/max_likelihood/train/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/train/{run}.tsv"
    wildcard_constraints:
        run="|".join(map(re.escape, ML_PLAN.runs)),
    priority: lambda wildcards, input, attempt: ML_PLAN.priority(wildcards.run)
    conda:
        ENVIRONMENT
    threads: lambda wildcards: ML.main.threads if ML_PLAN.is_large(wildcards.run) else 1
    resources:
        gpu=lambda wildcards: GPU * ML_PLAN.processes(wildcards.run),
        gpu_model=GPU_MODEL,
        devices=lambda wildcards: ML_PLAN.processes(wildcards.run),
        mem_mb=by_scale(1500, 3000, 32000),
        runtime=lambda wildcards: {"smoke": 5, "desk": 30}.get(CONFIG.scale) or ML_PLAN.minutes(wildcards.run),
    params:
        **job(
            "max_likelihood",
            "train",
            lambda wildcards: ML_PLAN.training(
                wildcards.run,
                CONFIG.precision,
                {"smoke": 2, "desk": 100, "paper": 2000}[CONFIG.scale],
            ),
        ),
        work="results/{scale}/max_likelihood/checkpoints",
    shell:
        command(ON_IMAGES, "--work {params.work} --devices {resources.devices}")


for experiment, table in ML_SEVERAL.items():
    sizes = lambda wildcards, experiment=experiment: ML_PLAN.several(experiment, wildcards.get("kind", "ablation"))

    rule:
        name:
            f"max_likelihood_{experiment}"
        input:
            unpack(
                lambda wildcards, sizes=sizes: {
                    run: f"results/{wildcards.scale}/max_likelihood/models/{run}.safetensors"
                    for run in sizes(wildcards).runs
                }
            ),
        output:
            **{
                studies()["max_likelihood"]
                .experiments[experiment]
                .outputs[0]: (f"results/{{scale}}/max_likelihood/tables/{table}.csv")
            },
        log:
            f"logs/{{scale}}/max_likelihood/{table}.log",
        benchmark:
            f"logs/{{scale}}/max_likelihood/{table}.tsv"
        conda:
            ENVIRONMENT
        resources:
            **needs((1500, 3000, 16000), (5, 20, 600), GPU),
        params:
            **job("max_likelihood", experiment, sizes),
        shell:
            RUN_ON_IMAGES


rule max_likelihood_likelihood:
    input:
        ML_DESCRIPTION,
        models=rules.max_likelihood_train.output.models,
    output:
        table="results/{scale}/max_likelihood/tables/likelihood/{run}.csv",
    log:
        "logs/{scale}/max_likelihood/likelihood/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/likelihood/{run}.tsv"
    wildcard_constraints:
        run="|".join(map(re.escape, ML_PLAN.evaluations)),
    priority: lambda wildcards, input, attempt: ML_PLAN.priority(wildcards.run)
    conda:
        ENVIRONMENT
    resources:
        **needs((1500, 3000, 32000), (5, 30, 2000), GPU),
    params:
        **job(
            "max_likelihood",
            "likelihood",
            lambda wildcards: ml_jobs.LikelihoodJob(
                name=wildcards.run,
                run=ML_PLAN.runs[wildcards.run],
                evaluation=ML_PLAN.evaluations[wildcards.run],
            ),
        ),
        work="results/{scale}/max_likelihood/shards",
    shell:
        command(ON_IMAGES, "--work {params.work}")


rule max_likelihood_samples:
    input:
        ML_DESCRIPTION,
        models=rules.max_likelihood_train.output.models,
    output:
        samples="results/{scale}/max_likelihood/samples/{run}.safetensors",
        table="results/{scale}/max_likelihood/tables/samples/{run}.csv",
    log:
        "logs/{scale}/max_likelihood/samples/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/samples/{run}.tsv"
    wildcard_constraints:
        run="|".join(map(re.escape, ML_PLAN.sampled)),
    conda:
        ENVIRONMENT
    resources:
        **needs((1500, 3000, 16000), (5, 20, 600), GPU),
    params:
        **job(
            "max_likelihood",
            "samples",
            lambda wildcards: ml_jobs.SamplesJob(
                name=wildcards.run, run=ML_PLAN.runs[wildcards.run], samples=ML.samples
            ),
        ),
    shell:
        RUN_ON_IMAGES


rule max_likelihood_gaps:
    output:
        gaps="results/{scale}/max_likelihood/tables/gaps.csv",
    log:
        "logs/{scale}/max_likelihood/gaps.log",
    benchmark:
        "logs/{scale}/max_likelihood/gaps.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE | {"mem_mb": 1000},
    params:
        **job("max_likelihood", "gaps"),
    shell:
        RUN


for table, parts in ML_PLAN.parts.items():

    rule:
        name:
            f"max_likelihood_table_{table}"
        input:
            results("max_likelihood", *(f"tables/{table}/{part}.csv" for part in parts)),
        output:
            f"results/{{scale}}/max_likelihood/tables/{table}.csv",
        log:
            f"logs/{{scale}}/max_likelihood/table/{table}.log",
        benchmark:
            f"logs/{{scale}}/max_likelihood/table/{table}.tsv"
        conda:
            ENVIRONMENT
        resources:
            **LITTLE,
        shell:
            CONCAT


rule max_likelihood_findings:
    input:
        **{
            table: f"results/{{scale}}/max_likelihood/tables/{table}.csv"
            for table in studies()["max_likelihood"].experiments["findings"].inputs
        },
    output:
        findings=report(
            "results/{scale}/max_likelihood/tables/findings.csv",
            caption=str(caption("max_likelihood", "findings")),
            category=studies()["max_likelihood"].category,
            labels={"figure": "table of findings"},
        ),
    log:
        "logs/{scale}/max_likelihood/findings.log",
    benchmark:
        "logs/{scale}/max_likelihood/findings.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE | {"mem_mb": 1000},
    params:
        **job(
            "max_likelihood",
            "findings",
            ml_jobs.FindingsJob(kinds={name: run.kind for name, run in ML_PLAN.runs.items()}),
        ),
    shell:
        RUN


localrules:
    max_likelihood,
    max_likelihood_table_curves,
    max_likelihood_table_likelihood,
    max_likelihood_table_samples,
    max_likelihood_table_coders,
