SIZES = SCALE.density_estimators
DATASETS = SIZES.datasets()
RUNS = SIZES.runs(CONFIG.seeds)
# The run whose networks are timed and compared in detail.
DETAILED = f"throws-{SIZES.throws_default}"
MODULE = "diffusion_density.studies.density_estimators.experiments"
# Each figure with the tables that it reads, as in diffusion_density.studies.density_estimators.figures.
FIGURES = {
    "kl_throws": ["throws"],
    "kl_sweeps": ["throws", "samples", "dimensions"],
    "entropy_score": ["throws", "objectives"],
    "compute_grid": ["throws"],
    "timing": ["timing", "tradeoff"],
    "agreement": ["agreement", "identity"],
}
TABLES = sorted({table for tables in FIGURES.values() for table in tables})


def dataset_spec(wildcards):
    return DATASETS[int(wildcards.dimension)].model_dump_json()


def run_spec(wildcards):
    return RUNS[wildcards.run].model_dump_json()


def run_dataset(wildcards):
    dimension = RUNS[wildcards.run].dimension
    return f"results/{wildcards.scale}/density_estimators/data/dimension-{dimension}.safetensors"


def run_cost(run):
    networks = len(run.arms) * run.mixtures * len(run.seeds)
    return networks * run.samples * run.throws * max(run.checkpoints)


def run_priority(wildcards, input, attempt):
    """The rank of a run by its network evaluations: long runs start first, lest one is left alone at the end."""
    return sorted(RUNS, key=lambda run: run_cost(RUNS[run])).index(wildcards.run)


def experiment_parts(wildcards):
    return [
        f"results/{wildcards.scale}/density_estimators/tables/runs/{run}.csv"
        for run in RUNS
        if run.startswith(f"{wildcards.experiment}-")
    ]
