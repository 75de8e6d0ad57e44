from typing import get_args

from diffusion_density.studies.density_estimators.sizes import (
    AgreementJob,
    EvaluationJob,
    SweepName,
    TimingJob,
)

DE_SIZES = SCALE.density_estimators
DE_RUNS = DE_SIZES.runs(CONFIG.seeds)
# The networks that are timed and compared in detail, and their data.
DE_DETAILED = {
    "dataset": f"results/{{scale}}/density_estimators/data/dimension-{DE_SIZES.dimension}.safetensors",
    "models": f"results/{{scale}}/density_estimators/models/{DE_SIZES.detailed}.safetensors",
}


# Long runs start first, so that none is left alone at the end.
DE_ORDER = sorted(DE_RUNS, key=lambda run: DE_RUNS[run].evaluations)
DE_DATASET = lambda wildcards: (
    f"results/{wildcards.scale}/density_estimators/data/" f"dimension-{DE_RUNS[wildcards.run].dimension}.safetensors"
)


rule density_estimators:
    input:
        targets("density_estimators"),


rule density_estimators_dataset:
    output:
        dataset="results/{scale}/density_estimators/data/dimension-{dimension}.safetensors",
    log:
        "logs/{scale}/density_estimators/dataset/{dimension}.log",
    benchmark:
        "logs/{scale}/density_estimators/dataset/{dimension}.tsv"
    wildcard_constraints:
        dimension=r"\d+",
    group:
        "datasets"
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 1000, 2000), (5, 5, 10)),
    params:
        **job(
            "density_estimators",
            "dataset",
            lambda wildcards: DE_SIZES.datasets()[int(wildcards.dimension)],
        ),
    shell:
        RUN


rule density_estimators_train:
    input:
        dataset=DE_DATASET,
    output:
        models="results/{scale}/density_estimators/models/{run}.safetensors",
    log:
        "logs/{scale}/density_estimators/train/{run}.log",
    benchmark:
        "logs/{scale}/density_estimators/train/{run}.tsv"
    wildcard_constraints:
        run="|".join(DE_RUNS),
    priority: lambda wildcards, input, attempt: DE_ORDER.index(wildcards.run)
    conda:
        ENVIRONMENT
    # Two jobs at the same time are faster than one with two threads.
    threads: 1
    resources:
        **needs((1000, 2000, 8000), (5, 20, 720)),
    params:
        **job("density_estimators", "train", lambda wildcards: DE_RUNS[wildcards.run]),
    shell:
        RUN


rule density_estimators_evaluate:
    input:
        dataset=DE_DATASET,
        models=rules.density_estimators_train.output.models,
    output:
        table="results/{scale}/density_estimators/tables/runs/{run}.csv",
    log:
        "logs/{scale}/density_estimators/evaluate/{run}.log",
    benchmark:
        "logs/{scale}/density_estimators/evaluate/{run}.tsv"
    wildcard_constraints:
        run="|".join(DE_RUNS),
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 2000, 8000), (5, 20, 240)),
    params:
        **job(
            "density_estimators",
            "evaluate",
            lambda wildcards: EvaluationJob(run=DE_RUNS[wildcards.run], evaluation=DE_SIZES.evaluation),
        ),
    shell:
        RUN


rule density_estimators_table:
    input:
        lambda wildcards: [
            f"results/{wildcards.scale}/density_estimators/tables/runs/{name}.csv"
            for name, run in DE_RUNS.items()
            if run.experiment == wildcards.experiment
        ],
    output:
        "results/{scale}/density_estimators/tables/{experiment}.csv",
    log:
        "logs/{scale}/density_estimators/table/{experiment}.log",
    benchmark:
        "logs/{scale}/density_estimators/table/{experiment}.tsv"
    wildcard_constraints:
        experiment="|".join(get_args(SweepName)),
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    shell:
        CONCAT


rule density_estimators_timing:
    input:
        **DE_DETAILED,
    output:
        timing="results/{scale}/density_estimators/tables/timing.csv",
        tradeoff="results/{scale}/density_estimators/tables/tradeoff.csv",
    log:
        "logs/{scale}/density_estimators/timing.log",
    benchmark:
        "logs/{scale}/density_estimators/timing.tsv"
    conda:
        ENVIRONMENT
    # All cores, so that no other job disturbs the clock; on a cluster a job's cores are its own anyway.
    threads: workflow.resource_settings.cores or 1
    resources:
        **needs((1000, 2000, 8000), (5, 20, 240)),
    params:
        **job(
            "density_estimators",
            "timing",
            TimingJob(run=DE_RUNS[DE_SIZES.detailed], timing=DE_SIZES.timing),
        ),
    shell:
        command(threads=1)


rule density_estimators_agreement:
    input:
        **DE_DETAILED,
    output:
        agreement="results/{scale}/density_estimators/tables/agreement.csv",
        identity="results/{scale}/density_estimators/tables/identity.csv",
    log:
        "logs/{scale}/density_estimators/agreement.log",
    benchmark:
        "logs/{scale}/density_estimators/agreement.tsv"
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 2000, 8000), (5, 20, 240)),
    params:
        **job(
            "density_estimators",
            "agreement",
            AgreementJob(run=DE_RUNS[DE_SIZES.detailed], agreement=DE_SIZES.agreement),
        ),
    shell:
        RUN


localrules:
    density_estimators,
    density_estimators_table,
