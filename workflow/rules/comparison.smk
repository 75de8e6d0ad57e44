include: "comparison_common.smk"


rule comparison:
    input:
        "results/{scale}/comparison/tables/decision.csv".format(scale=CONFIG.scale),
        expand(
            "results/{scale}/comparison/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=COMPARISON_FIGURES,
            kind=["svg", "png"],
        ),


rule comparison_trained:
    input:
        dataset=rules.density_estimators_timing.input.dataset,
        models=rules.density_estimators_timing.input.models,
    output:
        estimators="results/{scale}/comparison/tables/estimators/trained.csv",
        variance="results/{scale}/comparison/tables/variance/trained.csv",
    log:
        "logs/{scale}/comparison/trained.log",
    benchmark:
        "logs/{scale}/comparison/trained.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 10, 240),
    params:
        run=RUNS[DETAILED].model_dump_json(),
        spec=COMPARISON.trained.model_dump_json(),
        code=sources_hash(f"{COMPARISON_MODULE}.trained"),
    shell:
        "python -m diffusion_density comparison trained --run {params.run:q} --spec {params.spec:q}"
        " --dataset {input.dataset} --models {input.models}"
        " --estimators {output.estimators} --variance {output.variance}"
        " --threads {threads} 2>&1 | tee {log}"


rule comparison_pictures:
    input:
        models="results/{scale}/max_likelihood/models/{run}.safetensors",
        description=ml_description,
    output:
        estimators="results/{scale}/comparison/tables/estimators/{run}.csv",
        variance="results/{scale}/comparison/tables/variance/{run}.csv",
    log:
        "logs/{scale}/comparison/pictures/{run}.log",
    benchmark:
        "logs/{scale}/comparison/pictures/{run}.tsv"
    wildcard_constraints:
        run="|".join(COMPARISON_RUNS),
    threads: 1
    resources:
        gpu=GPU,
        gpu_model=GPU_MODEL,
        mem_mb=by_scale(1500, 3000, 16000),
        runtime=by_scale(5, 20, 600),
    params:
        run=ml_spec,
        spec=COMPARISON.images.model_dump_json(),
        data_dir=CONFIG.data_dir,
        code=sources_hash(f"{COMPARISON_MODULE}.pictures"),
    shell:
        "python -m diffusion_density comparison pictures --run {params.run:q} --spec {params.spec:q}"
        " --models {input.models} --data-dir {params.data_dir:q} --gpus {resources.gpu}"
        " --estimators {output.estimators} --variance {output.variance}"
        " --threads {threads} 2>&1 | tee {log}"


rule comparison_estimators_table:
    input:
        expand(
            "results/{{scale}}/comparison/tables/estimators/{part}.csv",
            part=COMPARISON_PARTS,
        ),
    output:
        "results/{scale}/comparison/tables/estimators.csv",
    log:
        "logs/{scale}/comparison/estimators_table.log",
    benchmark:
        "logs/{scale}/comparison/estimators_table.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    shell:
        "python -m diffusion_density concat {input} --out {output} 2>&1 | tee {log}"


rule comparison_findings:
    input:
        estimators=rules.comparison_estimators_table.output,
        variance=expand(
            "results/{{scale}}/comparison/tables/variance/{part}.csv",
            part=COMPARISON_PARTS,
        ),
    output:
        findings="results/{scale}/comparison/tables/findings.csv",
        decision=report(
            "results/{scale}/comparison/tables/decision.csv",
            caption="../report/comparison/decision.rst",
            category=CATEGORIES["comparison"],
            labels={"figure": "table: which estimator to use"},
        ),
    log:
        "logs/{scale}/comparison/findings.log",
    benchmark:
        "logs/{scale}/comparison/findings.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    params:
        code=sources_hash(f"{COMPARISON_MODULE}.findings"),
    shell:
        "python -m diffusion_density comparison findings --estimators {input.estimators}"
        " $(printf -- ' --variance %s' {input.variance}) --findings {output.findings} --decision {output.decision} 2>&1 | tee {log}"


localrules:
    comparison,
    comparison_estimators_table,
