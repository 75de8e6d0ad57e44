# Jobs that start from nothing, by study: the tables that each writes, in order, and its sizes; at paper scale they have
# so many MB and minutes.
STUDY_EXPERIMENTS = {
    "density_formula": (FORMULA_EXPERIMENTS, FORMULA_JOBS, 4000, 120),
    "high_density": (HIGH_EXPERIMENTS, dict(HIGH_SIZES), 4000, 120),
    "comparison": (COMPARISON_EXPERIMENTS, COMPARISON_JOBS, 8000, 600),
}


for study, (experiments, sizes, paper_mb, paper_minutes) in STUDY_EXPERIMENTS.items():
    for experiment, tables in experiments.items():

        rule:
            name:
                f"{study}_{experiment}"
            output:
                expand(
                    f"results/{{{{scale}}}}/{study}/tables/{{table}}.csv", table=tables
                ),
            log:
                f"logs/{{scale}}/{study}/{experiment}.log",
            benchmark:
                f"logs/{{scale}}/{study}/{experiment}.tsv"
            # The longest first, and those of a minute that are not to be left alone at the end.
            priority: 100 if experiment == "gan" or study == "comparison" else 0
            threads: 1
            resources:
                gpu=0,
                mem_mb=by_scale(1000, 2000, paper_mb),
                runtime=by_scale(5, 10, paper_minutes),
            params:
                verb=study.replace("_", "-"),
                experiment=experiment,
                spec=sizes[experiment].model_dump_json(),
                code=sources_hash(f"diffusion_density.studies.{study}.experiments.{experiment}"),
            shell:
                "python -m diffusion_density {params.verb} experiment {params.experiment}"
                " --spec {params.spec:q} $(printf -- ' --out %s' {output})"
                " --threads {threads} 2>&1 | tee {log}"
