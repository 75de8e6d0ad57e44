include: "density_formula_common.smk"


wildcard_constraints:
    network="|".join(FORMULA_RUNS),
    measured="|".join(FORMULA_MEASURED),


rule density_formula:
    input:
        expand(
            "results/{scale}/density_formula/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=FORMULA_FIGURES,
            kind=["svg", "png"],
        ),


rule density_formula_train:
    output:
        "results/{scale}/density_formula/models/{network}.safetensors",
    log:
        "logs/{scale}/density_formula/train/{network}.log",
    benchmark:
        "logs/{scale}/density_formula/train/{network}.tsv"
    priority: 50
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 10, 240),
    params:
        spec=lambda wildcards: FORMULA_RUNS[wildcards.network].model_dump_json(),
        code=lambda wildcards: sources_hash(
            f"{FORMULA_MODULE}.train_{wildcards.network}"
        ),
    shell:
        "python -m diffusion_density density-formula train {wildcards.network}"
        " --spec {params.spec:q} --out {output} --threads {threads} 2>&1 | tee {log}"


rule density_formula_measure:
    input:
        models=lambda wildcards: (
            "results/{scale}/density_formula/models/"
            f"{FORMULA_MEASURED[wildcards.measured]}.safetensors"
        ),
    output:
        "results/{scale}/density_formula/tables/{measured}.csv",
    log:
        "logs/{scale}/density_formula/measure/{measured}.log",
    benchmark:
        "logs/{scale}/density_formula/measure/{measured}.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=by_scale(1000, 2000, 8000),
        runtime=by_scale(5, 10, 240),
    params:
        run=lambda wildcards: FORMULA_RUNS[
            FORMULA_MEASURED[wildcards.measured]
        ].model_dump_json(),
        spec=lambda wildcards: FORMULA_JOBS[wildcards.measured].model_dump_json(),
        code=lambda wildcards: sources_hash(f"{FORMULA_MODULE}.{wildcards.measured}"),
    shell:
        "python -m diffusion_density density-formula measure {wildcards.measured}"
        " --run {params.run:q} --spec {params.spec:q} --models {input.models}"
        " --out {output} --threads {threads} 2>&1 | tee {log}"


localrules:
    density_formula,
