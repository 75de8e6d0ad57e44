include: "high_density_common.smk"


rule high_density:
    input:
        "results/{scale}/high_density/tables/image_findings.csv".format(
            scale=CONFIG.scale
        ),
        expand(
            "results/{scale}/high_density/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=HIGH_FIGURES,
            kind=["svg", "png"],
        ),


rule high_density_images:
    input:
        models="results/{scale}/max_likelihood/models/{run}.safetensors",
        description=ml_description,
    output:
        grid="results/{scale}/high_density/samples/{run}.safetensors",
        table="results/{scale}/high_density/tables/images/{run}.csv",
    log:
        "logs/{scale}/high_density/images/{run}.log",
    benchmark:
        "logs/{scale}/high_density/images/{run}.tsv"
    threads: 1
    resources:
        gpu=GPU,
        gpu_model=GPU_MODEL,
        mem_mb=by_scale(1500, 3000, 16000),
        runtime=by_scale(5, 20, 600),
    params:
        run=ml_spec,
        spec=HIGH_SIZES.images.model_dump_json(),
        data_dir=CONFIG.data_dir,
        code=sources_hash(f"{HIGH_MODULE}.images"),
    shell:
        "python -m diffusion_density high-density images {wildcards.run} --run {params.run:q}"
        " --spec {params.spec:q} --models {input.models} --data-dir {params.data_dir:q}"
        " --gpus {resources.gpu} --grid {output.grid} --out {output.table}"
        " --threads {threads} 2>&1 | tee {log}"


rule high_density_images_table:
    input:
        expand("results/{{scale}}/high_density/tables/images/{run}.csv", run=HIGH_RUNS),
    output:
        "results/{scale}/high_density/tables/images.csv",
    log:
        "logs/{scale}/high_density/images_table.log",
    benchmark:
        "logs/{scale}/high_density/images_table.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    shell:
        "python -m diffusion_density concat {input} --out {output} 2>&1 | tee {log}"


rule high_density_findings:
    input:
        rules.high_density_images_table.output,
    output:
        report(
            "results/{scale}/high_density/tables/image_findings.csv",
            caption="../report/high_density/image_findings.rst",
            category=CATEGORIES["high_density"],
            labels={"figure": "table of findings on images"},
        ),
    log:
        "logs/{scale}/high_density/findings.log",
    benchmark:
        "logs/{scale}/high_density/findings.tsv"
    threads: 1
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    params:
        code=sources_hash(f"{HIGH_MODULE}.findings"),
    shell:
        "python -m diffusion_density high-density findings {input} --out {output} 2>&1 | tee {log}"


localrules:
    high_density,
    high_density_images_table,
