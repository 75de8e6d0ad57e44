import atexit


def gpu_hours(dag):
    """GPU-hours of each study's planned jobs, to print: what is expected, and what their limits of time allow."""
    hours = {}
    for job in dag.needrun_jobs(exclude_finished=False):
        gpu = job.resources.get("gpu", 0)
        if gpu:
            limit = gpu * job.resources.runtime / 60
            trains = job.rule.name == "max_likelihood_train"
            expected = ML_PLAN.gpu_hours(job.wildcards.run) if trains else limit
            study = next(filter(job.rule.name.startswith, studies()), job.rule.name)
            hours.setdefault(study, []).append((expected, limit))
    if not hours:
        return "the planned jobs ask for no GPU"
    rows = {study: [len(of), *map(sum, zip(*of))] for study, of in sorted(hours.items())}
    rows["all studies"] = list(map(sum, zip(*rows.values())))
    return "\n".join(
        [
            "GPU-hours of the planned jobs; training by counted operations, what is not counted at its limit of time:",
            f"{'study':20} {'GPU jobs':>10} {'estimated':>10} {'at most':>10}",
            *(
                f"{study:20} {jobs:10} {expected:10,.1f} {limit:10,.1f}"
                for study, (jobs, expected, limit) in rows.items()
            ),
        ]
    )


def after_dry_run():
    """A dry run has no hook of its own."""
    if workflow.dryrun:
        print(gpu_hours(workflow.dag), file=sys.stderr)


atexit.register(after_dry_run)


onstart:
    print(gpu_hours(workflow.dag), file=sys.stderr)
