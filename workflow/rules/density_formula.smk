FORMULA_JOBS = SCALE.density_formula.jobs(CONFIG.seeds)
# Jobs that measure trained networks, each a table, with the training of these networks.
FORMULA_MEASURED = {
    "weightings": "planar",
    "digit_estimates": "digits",
    "digit_classes": "digits",
}
FORMULA_ALONE = ("exactness", "discretisation", "score_error", "toy", "classifier")
jobs_without_inputs("density_formula", {name: FORMULA_JOBS[name] for name in FORMULA_ALONE}, 4000, 120)
# The longest first.
jobs_without_inputs("density_formula", {"gan": FORMULA_JOBS["gan"]}, 4000, 120, urgency=100)


rule density_formula:
    input:
        targets("density_formula"),


for network in ("planar", "digits"):

    rule:
        name:
            f"density_formula_train_{network}"
        output:
            models=f"results/{{scale}}/density_formula/models/{network}.safetensors",
        log:
            f"logs/{{scale}}/density_formula/train/{network}.log",
        benchmark:
            f"logs/{{scale}}/density_formula/train/{network}.tsv"
        priority: 50
        conda:
            ENVIRONMENT
        resources:
            **needs((1000, 2000, 8000), (5, 10, 240)),
        params:
            **job("density_formula", f"train_{network}", FORMULA_JOBS[f"train_{network}"]),
        shell:
            RUN


for table, network in FORMULA_MEASURED.items():

    rule:
        name:
            f"density_formula_{table}"
        input:
            models=f"results/{{scale}}/density_formula/models/{network}.safetensors",
        output:
            **{table: f"results/{{scale}}/density_formula/tables/{table}.csv"},
        log:
            f"logs/{{scale}}/density_formula/measure/{table}.log",
        benchmark:
            f"logs/{{scale}}/density_formula/measure/{table}.tsv"
        conda:
            ENVIRONMENT
        resources:
            **needs((1000, 2000, 8000), (5, 10, 240)),
        params:
            **job("density_formula", table, FORMULA_JOBS[table]),
        shell:
            RUN


localrules:
    density_formula,
