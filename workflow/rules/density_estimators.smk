include: "density_estimators_common.smk"


wildcard_constraints:
    dimension=r"\d+",
    run="|".join(RUNS),
    experiment="throws|objectives|samples|dimensions",


rule density_estimators:
    input:
        expand(
            "results/{scale}/density_estimators/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=FIGURES,
            kind=["svg", "png"],
        ),
        expand(
            "results/{scale}/density_estimators/tables/{table}.csv",
            scale=CONFIG.scale,
            table=TABLES,
        ),


rule density_estimators_dataset:
    output:
        "results/{scale}/density_estimators/data/dimension-{dimension}.safetensors",
    log:
        "logs/{scale}/density_estimators/dataset/{dimension}.log",
    benchmark:
        "logs/{scale}/density_estimators/dataset/{dimension}.tsv"
    group:
        "datasets"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 1000, 2000),
        runtime=by_scale(5, 5, 10),
    params:
        spec=dataset_spec,
        code=sources_hash(f"{MODULE}.dataset"),
    shell:
        "python -m diffusion_density density-estimators dataset --spec {params.spec:q}"
        " --out {output} --threads {threads} 2>&1 | tee {log}"


rule density_estimators_train:
    input:
        dataset=run_dataset,
    output:
        "results/{scale}/density_estimators/models/{run}.safetensors",
    log:
        "logs/{scale}/density_estimators/train/{run}.log",
    benchmark:
        "logs/{scale}/density_estimators/train/{run}.tsv"
    priority: run_priority
    # Two jobs side by side beat one with two threads.
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 20, 720),
    params:
        spec=run_spec,
        code=sources_hash(f"{MODULE}.train"),
    shell:
        "python -m diffusion_density density-estimators train --spec {params.spec:q}"
        " --dataset {input.dataset} --out {output}"
        " --threads {threads} 2>&1 | tee {log}"


rule density_estimators_evaluate:
    input:
        dataset=run_dataset,
        models=rules.density_estimators_train.output[0],
    output:
        "results/{scale}/density_estimators/tables/runs/{run}.csv",
    log:
        "logs/{scale}/density_estimators/evaluate/{run}.log",
    benchmark:
        "logs/{scale}/density_estimators/evaluate/{run}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 20, 240),
    params:
        spec=run_spec,
        evaluation=SIZES.evaluation.model_dump_json(),
        code=sources_hash(f"{MODULE}.evaluate"),
    shell:
        "python -m diffusion_density density-estimators evaluate {wildcards.run}"
        " --spec {params.spec:q} --evaluation {params.evaluation:q}"
        " --dataset {input.dataset} --models {input.models} --out {output}"
        " --threads {threads} 2>&1 | tee {log}"


rule density_estimators_table:
    input:
        experiment_parts,
    output:
        "results/{scale}/density_estimators/tables/{experiment}.csv",
    log:
        "logs/{scale}/density_estimators/table/{experiment}.log",
    benchmark:
        "logs/{scale}/density_estimators/table/{experiment}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    shell:
        "python -m diffusion_density concat {input} --out {output} 2>&1 | tee {log}"


rule density_estimators_timing:
    input:
        dataset=f"results/{{scale}}/density_estimators/data/dimension-{SIZES.dimension}.safetensors",
        models=f"results/{{scale}}/density_estimators/models/{DETAILED}.safetensors",
    output:
        seconds="results/{scale}/density_estimators/tables/timing.csv",
        tradeoff="results/{scale}/density_estimators/tables/tradeoff.csv",
    log:
        "logs/{scale}/density_estimators/timing.log",
    benchmark:
        "logs/{scale}/density_estimators/timing.tsv"
    # All cores, so that no other job disturbs the clock; on a cluster a job's cores are its own anyway.
    threads: workflow.resource_settings.cores or 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 20, 240),
    params:
        spec=RUNS[DETAILED].model_dump_json(),
        sizes=SIZES.timing.model_dump_json(),
        code=sources_hash(f"{MODULE}.timing"),
    shell:
        "python -m diffusion_density density-estimators examine timing"
        " --spec {params.spec:q} --sizes {params.sizes:q}"
        " --dataset {input.dataset} --models {input.models}"
        " --out {output.seconds} --out {output.tradeoff}"
        " --threads 1 2>&1 | tee {log}"


rule density_estimators_agreement:
    input:
        dataset=rules.density_estimators_timing.input.dataset,
        models=rules.density_estimators_timing.input.models,
    output:
        points="results/{scale}/density_estimators/tables/agreement.csv",
        identity="results/{scale}/density_estimators/tables/identity.csv",
    log:
        "logs/{scale}/density_estimators/agreement.log",
    benchmark:
        "logs/{scale}/density_estimators/agreement.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 20, 240),
    params:
        spec=RUNS[DETAILED].model_dump_json(),
        sizes=SIZES.agreement.model_dump_json(),
        code=sources_hash(f"{MODULE}.agreement"),
    shell:
        "python -m diffusion_density density-estimators examine agreement"
        " --spec {params.spec:q} --sizes {params.sizes:q}"
        " --dataset {input.dataset} --models {input.models}"
        " --out {output.points} --out {output.identity}"
        " --threads {threads} 2>&1 | tee {log}"


localrules:
    density_estimators,
    density_estimators_table,
