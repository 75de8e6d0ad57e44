"""Training job of paper A: one stack of networks, all arms, mixtures and seeds of a run at once."""

from pathlib import Path

from tqdm import tqdm

from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import SCHEDULE, build, places, save
from diffusion_density.studies.density_estimators.sizes import TrainingRun
from diffusion_density.training.stack import Member, train_stack


def train(run: TrainingRun, dataset: Path, out: Path) -> None:
    """Train the networks of a run and write those of every checkpoint.

    Raises:
        InputError: if the data set does not fit the run.
        NumericalError: if a loss is not finite.
    """
    _, samples = data.load(dataset, run)
    sets = list(samples)
    members = [
        Member(build(run, place), place.arm.prediction, place.arm.weighting, sets[place.mixture], place.seed)
        for place in places(run)
    ]
    steps = [max(1, round(epochs * run.samples / run.optimiser.batch_size)) for epochs in run.checkpoints]
    training = train_stack(members, SCHEDULE, throws=run.throws, checkpoints=steps, **run.optimiser.model_dump())
    bar = tqdm(training, total=max(steps), desc=out.stem, unit="step", mininterval=2)
    stacks = {step: stack for step, stack in bar if stack is not None}
    save(out, run, [stacks[step] for step in steps])
