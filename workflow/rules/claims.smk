from diffusion_density.claims.definition import read_claims

CLAIMS_FILE = WORKFLOW / "claims.yaml"
try:
    CLAIMS = read_claims(CLAIMS_FILE)
except InputError as error:
    sys.exit(f"error: {error}")
CLAIMS_CATEGORY = "1. Claims of the papers, judged"


rule claims:
    input:
        expand("results/{scale}/claims.{kind}", scale=CONFIG.scale, kind=["csv", "html"]),


rule claims_judge:
    input:
        claims=CLAIMS_FILE,
        tables=["results/{{scale}}/{}/tables/{}.csv".format(*table.split("/", 1)) for table in CLAIMS.tables],
    output:
        report(
            "results/{scale}/claims.csv",
            caption="../report/claims_table.rst",
            category=CLAIMS_CATEGORY,
            labels={"figure": "table of verdicts"},
        ),
    log:
        "logs/{scale}/claims/judge.log",
    benchmark:
        "logs/{scale}/claims/judge.tsv"
    conda:
        ENVIRONMENT
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        code=sources_hash("diffusion_density.claims.verdicts"),
    shell:
        "python -m diffusion_density claims judge --claims {input.claims} --results {params.folder}"
        " --scale {wildcards.scale} --out {output} 2>&1 | tee {log}"


rule claims_page:
    input:
        claims=CLAIMS_FILE,
        verdicts=rules.claims_judge.output,
        template=WORKFLOW / "report" / "claims.html.jinja",
        figures=["results/{{scale}}/{}/figures/{}.svg".format(*figure.split("/")) for figure in CLAIMS.figures],
    output:
        page="results/{scale}/claims.html",
        brief=report(
            "results/{scale}/claims_brief.html",
            caption="../report/claims.rst",
            category=CLAIMS_CATEGORY,
            labels={"figure": "page of claims"},
        ),
    log:
        "logs/{scale}/claims/page.log",
    benchmark:
        "logs/{scale}/claims/page.tsv"
    conda:
        ENVIRONMENT
    resources:
        gpu=0,
        mem_mb=500,
        runtime=5,
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        report=WORKFLOW / "report",
        code=sources_hash("diffusion_density.claims.page"),
    shell:
        "python -m diffusion_density claims page {input.verdicts} --claims {input.claims} --report {params.report}"
        " --results {params.folder} --out {output.page} --brief {output.brief} 2>&1 | tee {log}"


localrules:
    claims,
    claims_judge,
    claims_page,
