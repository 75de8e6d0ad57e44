for study, experiment, sizes, paper_mb, paper_minutes, urgency in JOBS_WITHOUT_INPUTS:

    rule:
        name:
            f"{study}_{experiment}"
        output:
            **{
                name: f"results/{{scale}}/{study}/tables/{name}.csv"
                for name in studies()[study].experiments[experiment].outputs
            },
        log:
            f"logs/{{scale}}/{study}/{experiment}.log",
        benchmark:
            f"logs/{{scale}}/{study}/{experiment}.tsv"
        priority: urgency
        conda:
            ENVIRONMENT
        resources:
            **needs((1000, 2000, paper_mb), (5, 10, paper_minutes)),
        params:
            **job(study, experiment, sizes),
        shell:
            RUN
