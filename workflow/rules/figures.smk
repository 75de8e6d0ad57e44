for study, declared in studies().items():

    rule:
        name:
            f"{study}_figures"
        input:
            results(study, *(f"tables/{table}.csv" for table in declared.tables)),
            FIGURE_FILES.get(study, []),
        output:
            [
                report(
                    f"results/{{scale}}/{study}/figures/{name}.svg",
                    caption=str(caption(study, name)),
                    category=declared.category,
                    labels={"figure": name.replace("_", " ")},
                )
                for name in declared.figures
            ],
            results(study, *(f"figures/{name}.png" for name in declared.figures)),
        log:
            f"logs/{{scale}}/{study}/figures.log",
        benchmark:
            f"logs/{{scale}}/{study}/figures.tsv"
        group:
            "figures"
        conda:
            ENVIRONMENT
        resources:
            **LITTLE | {"mem_mb": 1000},
        params:
            study=study,
            tables=lambda wildcards, input: Path(input[0]).parent,
            folder=lambda wildcards, output: Path(output[0]).parent,
            code=sources_hash(f"diffusion_density.studies.{study}.figures"),
        shell:
            "python -m diffusion_density figures {params.study} --tables {params.tables}"
            " --out {params.folder} 2>&1 | tee {log}"
