from diffusion_density.studies.high_density.sizes import ImagesJob

HIGH_SIZES = SCALE.high_density
# Networks of max_likelihood whose images are examined: digits, and one for each set of larger images.
HIGH_RUNS = [ML.reference, *ML_PLAN.of_kind("main")]
jobs_without_inputs(
    "high_density",
    {name: sizes for name, sizes in HIGH_SIZES if name != "images"},
    4000,
    120,
)


rule high_density:
    input:
        targets("high_density", "tables/image_findings.csv"),


rule high_density_images:
    input:
        ML_DESCRIPTION,
        models="results/{scale}/max_likelihood/models/{run}.safetensors",
    output:
        samples="results/{scale}/high_density/samples/{run}.safetensors",
        table="results/{scale}/high_density/tables/images/{run}.csv",
    log:
        "logs/{scale}/high_density/images/{run}.log",
    benchmark:
        "logs/{scale}/high_density/images/{run}.tsv"
    wildcard_constraints:
        run="|".join(HIGH_RUNS),
    conda:
        ENVIRONMENT
    resources:
        **needs((1500, 3000, 16000), (5, 20, 600), GPU),
    params:
        **job(
            "high_density",
            "images",
            lambda wildcards: ImagesJob(
                name=wildcards.run,
                run=ML_PLAN.runs[wildcards.run],
                images=HIGH_SIZES.images,
            ),
        ),
    shell:
        RUN_ON_IMAGES


rule high_density_images_table:
    input:
        results("high_density", *(f"tables/images/{run}.csv" for run in HIGH_RUNS)),
    output:
        "results/{scale}/high_density/tables/images.csv",
    log:
        "logs/{scale}/high_density/images_table.log",
    benchmark:
        "logs/{scale}/high_density/images_table.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    shell:
        CONCAT


rule high_density_findings:
    input:
        images=rules.high_density_images_table.output[0],
    output:
        image_findings=report(
            "results/{scale}/high_density/tables/image_findings.csv",
            caption=str(caption("high_density", "image_findings")),
            category=studies()["high_density"].category,
            labels={"figure": "table of findings on images"},
        ),
    log:
        "logs/{scale}/high_density/findings.log",
    benchmark:
        "logs/{scale}/high_density/findings.tsv"
    conda:
        ENVIRONMENT
    resources:
        **LITTLE,
    params:
        **job("high_density", "findings"),
    shell:
        RUN


localrules:
    high_density,
    high_density_images_table,
