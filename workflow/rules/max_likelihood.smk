import shlex


include: "max_likelihood_common.smk"


wildcard_constraints:
    run="|".join(map(re.escape, [*RUNS, *ML_RUNS])),
    dataset="|".join(map(re.escape, ML_SETS)),
    group="|".join(ML_GROUPS),


rule max_likelihood:
    input:
        expand(
            "results/{scale}/max_likelihood/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=ML_FIGURES,
            kind=["svg", "png"],
        ),
        expand(ml_table("{table}"), scale=CONFIG.scale, table=ML_TABLES),


rule max_likelihood_dataset:
    input:
        lambda wildcards: catalogue.files(ML_SETS[wildcards.dataset], CONFIG.data_dir),
    output:
        "results/{scale}/max_likelihood/data/{dataset}.json",
    log:
        "logs/{scale}/max_likelihood/dataset/{dataset}.log",
    benchmark:
        "logs/{scale}/max_likelihood/dataset/{dataset}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 10, 120),
    params:
        name=lambda wildcards: ML_SETS[wildcards.dataset],
        data_dir=CONFIG.data_dir,
        code=sources_hash(f"{ML_MODULE}.dataset"),
    shell:
        "python -m diffusion_density max-likelihood dataset {params.name:q}"
        " --data-dir {params.data_dir:q} --out {output} 2>&1 | tee {log}"


rule max_likelihood_lossless:
    input:
        rules.max_likelihood_dataset.output,
    output:
        "results/{scale}/max_likelihood/tables/coders/{dataset}.csv",
    log:
        "logs/{scale}/max_likelihood/lossless/{dataset}.log",
    benchmark:
        "logs/{scale}/max_likelihood/lossless/{dataset}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 10, 120),
    params:
        name=lambda wildcards: ML_SETS[wildcards.dataset],
        data_dir=CONFIG.data_dir,
        images=ML.likelihood.images,
        code=sources_hash(f"{ML_MODULE}.lossless"),
    shell:
        "python -m diffusion_density max-likelihood lossless {params.name:q}"
        " --data-dir {params.data_dir:q} --images {params.images} --out {output} 2>&1 | tee {log}"


rule max_likelihood_datasets:
    input:
        expand("results/{{scale}}/max_likelihood/data/{dataset}.json", dataset=ML_SETS),
    output:
        report(
            ml_table("datasets"),
            caption="../report/max_likelihood/datasets.rst",
            category=CATEGORIES["max_likelihood"],
            labels={"figure": "table of image sets, present and absent"},
        ),
    log:
        "logs/{scale}/max_likelihood/datasets.log",
    benchmark:
        "logs/{scale}/max_likelihood/datasets.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=5,
    params:
        data_dir=CONFIG.data_dir,
        absent=" ".join(f"--absent {shlex.quote(name)}" for name in ML_ABSENT),
        code=sources_hash(f"{ML_MODULE}.dataset"),
    shell:
        "python -m diffusion_density max-likelihood datasets {input} {params.absent}"
        " --data-dir {params.data_dir:q} --out {output} 2>&1 | tee {log}"


rule max_likelihood_train:
    input:
        description=ml_description,
        origin=ml_origin,
    output:
        "results/{scale}/max_likelihood/models/{run}.safetensors",
    log:
        "logs/{scale}/max_likelihood/train/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/train/{run}.tsv"
    priority: ml_priority
    threads: ml_threads
    resources:
        gpu=ml_gpus,
        gpu_model=GPU_MODEL,
        devices=ml_devices,
        mem_mb=by_scale(1500, 3000, 32000),
        runtime=ml_runtime,
    params:
        spec=ml_spec,
        origin=ml_origin_options,
        data_dir=CONFIG.data_dir,
        precision=CONFIG.precision,
        work="results/{scale}/max_likelihood/checkpoints",
        checkpoint_every={"smoke": 2, "desk": 100, "paper": 2000}[CONFIG.scale],
        code=sources_hash(f"{ML_MODULE}.train"),
    shell:
        "python -m diffusion_density max-likelihood train {wildcards.run} --spec {params.spec:q} {params.origin}"
        " --data-dir {params.data_dir:q} --work {params.work} --checkpoint-every {params.checkpoint_every}"
        " --precision {params.precision} --gpus {resources.gpu} --devices {resources.devices} --out {output}"
        " --threads {threads} 2>&1 | tee {log}"


for what, (table, runs, sizes) in ML_EXAMINATIONS.items():

    rule:
        name:
            f"max_likelihood_{what}"
        input:
            models=ml_several_models(runs),
        output:
            ml_table(table),
        log:
            f"logs/{{scale}}/max_likelihood/{table}.log",
        benchmark:
            f"logs/{{scale}}/max_likelihood/{table}.tsv"
        threads: 1
        resources:
            gpu=GPU,
            gpu_model=GPU_MODEL,
            mem_mb=by_scale(1500, 3000, 16000),
            runtime=by_scale(5, 20, 600),
        params:
            what=what,
            runs=ml_several_options(runs),
            sizes=sizes.model_dump_json(),
            data_dir=CONFIG.data_dir,
            code=sources_hash(f"{ML_MODULE}.{what}"),
        shell:
            "python -m diffusion_density max-likelihood examine {params.what} {params.runs}"
            " --sizes {params.sizes:q} --data-dir {params.data_dir:q}"
            " --gpus {resources.gpu} --out {output} --threads {threads} 2>&1 | tee {log}"


rule max_likelihood_likelihood:
    input:
        models=rules.max_likelihood_train.output[0],
        description=ml_description,
    output:
        "results/{scale}/max_likelihood/tables/likelihood/{run}.csv",
    log:
        "logs/{scale}/max_likelihood/likelihood/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/likelihood/{run}.tsv"
    priority: ml_priority
    threads: 1
    resources:
        gpu=GPU,
        gpu_model=GPU_MODEL,
        mem_mb=by_scale(1500, 3000, 32000),
        runtime=by_scale(5, 30, 2000),
    params:
        spec=ml_spec,
        evaluation=lambda wildcards: ML_EVALUATIONS[wildcards.run].model_dump_json(),
        data_dir=CONFIG.data_dir,
        work="results/{scale}/max_likelihood/shards",
        code=sources_hash(f"{ML_MODULE}.likelihood"),
    shell:
        "python -m diffusion_density max-likelihood likelihood {wildcards.run} --spec {params.spec:q}"
        " --evaluation {params.evaluation:q} --models {input.models} --data-dir {params.data_dir:q}"
        " --work {params.work} --gpus {resources.gpu} --out {output} --threads {threads} 2>&1 | tee {log}"


rule max_likelihood_samples:
    input:
        models=rules.max_likelihood_train.output[0],
        description=ml_description,
    output:
        grid="results/{scale}/max_likelihood/samples/{run}.safetensors",
        table="results/{scale}/max_likelihood/tables/samples/{run}.csv",
    log:
        "logs/{scale}/max_likelihood/samples/{run}.log",
    benchmark:
        "logs/{scale}/max_likelihood/samples/{run}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        gpu_model=GPU_MODEL,
        mem_mb=by_scale(1500, 3000, 16000),
        runtime=by_scale(5, 20, 600),
    params:
        spec=ml_spec,
        samples=ML.samples.model_dump_json(),
        data_dir=CONFIG.data_dir,
        code=sources_hash(f"{ML_MODULE}.samples"),
    shell:
        "python -m diffusion_density max-likelihood samples {wildcards.run} --spec {params.spec:q}"
        " --samples {params.samples:q} --models {input.models} --data-dir {params.data_dir:q}"
        " --grid {output.grid} --gpus {resources.gpu} --out {output.table} --threads {threads} 2>&1 | tee {log}"


rule max_likelihood_gaps:
    output:
        ml_table("gaps"),
    log:
        "logs/{scale}/max_likelihood/gaps.log",
    benchmark:
        "logs/{scale}/max_likelihood/gaps.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=5,
    params:
        code=sources_hash(f"{ML_MODULE}.gaps"),
    shell:
        "python -m diffusion_density max-likelihood gaps --out {output} 2>&1 | tee {log}"


for table, parts in ML_PARTS.items():

    rule:
        name:
            f"max_likelihood_table_{table}"
        input:
            expand(
                "results/{{scale}}/max_likelihood/tables/{table}/{part}.csv",
                table=table,
                part=parts,
            ),
        output:
            ml_table(table),
        log:
            f"logs/{{scale}}/max_likelihood/table/{table}.log",
        benchmark:
            f"logs/{{scale}}/max_likelihood/table/{table}.tsv"
        threads: 1
        resources:
            gpu=0,
            mem_mb=500,
            runtime=5,
        shell:
            "python -m diffusion_density concat {input} --out {output} 2>&1 | tee {log}"


rule max_likelihood_findings:
    input:
        expand(
            ml_table("{table}"),
            table=["curves", "likelihood", "variance", "coders"],
            allow_missing=True,
        ),
    output:
        report(
            ml_table("findings"),
            caption="../report/max_likelihood/findings.rst",
            category=CATEGORIES["max_likelihood"],
            labels={"figure": "table of findings"},
        ),
    log:
        "logs/{scale}/max_likelihood/findings.log",
    benchmark:
        "logs/{scale}/max_likelihood/findings.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=1000,
        runtime=5,
    params:
        tables=lambda wildcards, input: Path(input[0]).parent,
        code=sources_hash(f"{ML_MODULE}.findings"),
    shell:
        "python -m diffusion_density max-likelihood findings"
        " --tables {params.tables} --out {output} 2>&1 | tee {log}"


localrules:
    max_likelihood,
    max_likelihood_table_curves,
    max_likelihood_table_likelihood,
    max_likelihood_table_samples,
    max_likelihood_table_coders,
