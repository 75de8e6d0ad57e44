include: "high_density_common.smk"


rule high_density:
    input:
        expand(
            "results/{scale}/high_density/figures/{figure}.{kind}",
            scale=CONFIG.scale,
            figure=HIGH_FIGURES,
            kind=["svg", "png"],
        ),


for experiment, tables in HIGH_EXPERIMENTS.items():

    rule:
        name:
            f"high_density_{experiment}"
        output:
            expand("results/{{scale}}/high_density/tables/{table}.csv", table=tables),
        log:
            f"logs/{{scale}}/high_density/{experiment}.log",
        benchmark:
            f"logs/{{scale}}/high_density/{experiment}.tsv"
        threads: 1
        resources:
            gpu=0,
            mem_mb=by_scale(1000, 2000, 4000),
            runtime=by_scale(5, 10, 120),
        params:
            experiment=experiment,
            spec=getattr(HIGH_SIZES, experiment).model_dump_json(),
            code=sources_hash(f"{HIGH_MODULE}.{experiment}"),
        shell:
            "python -m diffusion_density high-density experiment {params.experiment}"
            " --spec {params.spec:q} $(printf -- ' --out %s' {output})"
            " --threads {threads} 2>&1 | tee {log}"


for figure, tables in HIGH_FIGURES.items():

    rule:
        name:
            f"high_density_figure_{figure}"
        input:
            expand("results/{{scale}}/high_density/tables/{table}.csv", table=tables),
        output:
            svg=report(
                f"results/{{scale}}/high_density/figures/{figure}.svg",
                caption=f"../report/high_density/{figure}.rst",
                category="C. Diffusion Models as Cartoonists",
                labels={"figure": figure.replace("_", " ")},
            ),
            png=f"results/{{scale}}/high_density/figures/{figure}.png",
        log:
            f"logs/{{scale}}/high_density/figures/{figure}.log",
        benchmark:
            f"logs/{{scale}}/high_density/figures/{figure}.tsv"
        threads: 1
        resources:
            gpu=0,
            mem_mb=1000,
            runtime=5,
        params:
            figure=figure,
            tables=lambda wildcards, input: Path(input[0]).parent,
            code=sources_hash("diffusion_density.figures.high_density"),
        shell:
            "python -m diffusion_density figure high_density {params.figure}"
            " --tables {params.tables} --out {output.svg} 2>&1 | tee {log}"


localrules:
    high_density,
