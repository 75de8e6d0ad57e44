STUDY_FIGURES = {
    "density_estimators": FIGURES,
    "density_formula": FORMULA_FIGURES,
    "high_density": HIGH_FIGURES,
    "max_likelihood": ML_FIGURES,
    "comparison": COMPARISON_FIGURES,
}
# Files other than tables that a figure reads.
FIGURE_FILES = {
    "max_likelihood/samples": expand(
        "results/{{scale}}/max_likelihood/samples/{run}.safetensors", run=ML_SAMPLED
    )
}


for study, figures in STUDY_FIGURES.items():
    for figure, tables in figures.items():

        rule:
            name:
                f"{study}_figure_{figure}"
            input:
                expand(
                    f"results/{{{{scale}}}}/{study}/tables/{{table}}.csv", table=tables
                ),
                FIGURE_FILES.get(f"{study}/{figure}", []),
            output:
                svg=report(
                    f"results/{{scale}}/{study}/figures/{figure}.svg",
                    caption=f"../report/{study}/{figure}.rst",
                    category=CATEGORIES[study],
                    labels={"figure": figure.replace("_", " ")},
                ),
                png=f"results/{{scale}}/{study}/figures/{figure}.png",
            log:
                f"logs/{{scale}}/{study}/figures/{figure}.log",
            benchmark:
                f"logs/{{scale}}/{study}/figures/{figure}.tsv"
            group:
                "figures"
            threads: 1
            resources:
                gpu=0,
                mem_mb=1000,
                runtime=5,
            params:
                study=study,
                figure=figure,
                tables=lambda wildcards, input: Path(input[0]).parent,
                code=sources_hash(f"diffusion_density.studies.{study}.figures"),
            shell:
                "python -m diffusion_density figure {params.study} {params.figure}"
                " --tables {params.tables} --out {output.svg} 2>&1 | tee {log}"
