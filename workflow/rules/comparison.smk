from diffusion_density.studies.comparison.sizes import ImagesJob as ComparisonImages
from diffusion_density.studies.comparison.sizes import TrainedJob

COMPARISON = SCALE.comparison
# Networks of max_likelihood: those of digits, and on GPUs those of larger images too.
COMPARISON_RUNS = HIGH_RUNS if CONFIG.scale == "paper" else [ML.reference]
# Parts of the tables: mixtures, a network of density_estimators, and networks of max_likelihood.
COMPARISON_PARTS = ["mixtures", "trained", *COMPARISON_RUNS]
COMPARISON_JOBS = COMPARISON.jobs(CONFIG.seeds)
jobs_without_inputs(
    "comparison",
    {"conditional": COMPARISON_JOBS["conditional"]},
    8000,
    600,
    urgency=100,
)


rule comparison:
    input:
        targets("comparison", "tables/decision.csv"),


# Jobs without inputs whose tables are parts.
for part in ("estimators", "variance"):

    rule:
        name:
            f"comparison_{part}"
        output:
            **{part: f"results/{{scale}}/comparison/tables/{part}/mixtures.csv"},
        log:
            f"logs/{{scale}}/comparison/{part}.log",
        benchmark:
            f"logs/{{scale}}/comparison/{part}.tsv"
        priority: 100
        conda:
            ENVIRONMENT
        resources:
            **needs((1000, 2000, 8000), (5, 10, 600)),
        params:
            **job("comparison", part, COMPARISON_JOBS[part]),
        shell:
            RUN


rule comparison_trained:
    input:
        **DE_DETAILED,
    output:
        estimators="results/{scale}/comparison/tables/estimators/trained.csv",
        variance="results/{scale}/comparison/tables/variance/trained.csv",
    log:
        "logs/{scale}/comparison/trained.log",
    benchmark:
        "logs/{scale}/comparison/trained.tsv"
    conda:
        ENVIRONMENT
    resources:
        **needs((1000, 2000, 8000), (5, 10, 240)),
    params:
        **job(
            "comparison",
            "trained",
            TrainedJob(run=DE_RUNS[DE_SIZES.detailed], trained=COMPARISON.trained),
        ),
    shell:
        RUN


rule comparison_images:
    input:
        ML_DESCRIPTION,
        models="results/{scale}/max_likelihood/models/{run}.safetensors",
    output:
        estimators="results/{scale}/comparison/tables/estimators/{run}.csv",
        variance="results/{scale}/comparison/tables/variance/{run}.csv",
    log:
        "logs/{scale}/comparison/images/{run}.log",
    benchmark:
        "logs/{scale}/comparison/images/{run}.tsv"
    wildcard_constraints:
        run="|".join(COMPARISON_RUNS),
    conda:
        ENVIRONMENT
    resources:
        **needs((1500, 3000, 16000), (5, 20, 600), GPU),
    params:
        **job(
            "comparison",
            "images",
            lambda wildcards: ComparisonImages(
                name=wildcards.run,
                run=ML_PLAN.runs[wildcards.run],
                images=COMPARISON.images,
            ),
        ),
    shell:
        RUN_ON_IMAGES


rule comparison_estimators_table:
    input:
        results(
            "comparison",
            *(f"tables/estimators/{part}.csv" for part in COMPARISON_PARTS),
        ),
    output:
        "results/{scale}/comparison/tables/estimators.csv",
    log:
        "logs/{scale}/comparison/estimators_table.log",
    benchmark:
        "logs/{scale}/comparison/estimators_table.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    shell:
        CONCAT


rule comparison_findings:
    input:
        **{part: f"results/{{scale}}/comparison/tables/variance/{part}.csv" for part in COMPARISON_PARTS},
        estimators=rules.comparison_estimators_table.output[0],
    output:
        findings="results/{scale}/comparison/tables/findings.csv",
        decision=report(
            "results/{scale}/comparison/tables/decision.csv",
            caption=str(caption("comparison", "decision")),
            category=studies()["comparison"].category,
            labels={"figure": "table: which estimator to use"},
        ),
    log:
        "logs/{scale}/comparison/findings.log",
    benchmark:
        "logs/{scale}/comparison/findings.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    params:
        **job("comparison", "findings"),
    shell:
        RUN


localrules:
    comparison,
    comparison_estimators_table,
