"""Training: one stack of networks, all arms, mixtures and seeds of a run at once."""

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from diffusion_density.studies.density_estimators.experiments import dataset as data
from diffusion_density.studies.density_estimators.models import SCHEDULE, build, places, save
from diffusion_density.studies.density_estimators.sizes import TrainingRun
from diffusion_density.training.stack import Member, train_stack


def run(sizes: TrainingRun, inputs: Mapping[str, Path], outputs: Mapping[str, Path]) -> None:
    """Train the networks of a run and write those of every checkpoint.

    Raises:
        InputError: if the data set does not fit the run.
        NumericalError: if a loss is not finite.
    """
    _, samples = data.load(inputs["dataset"], sizes)
    sets = list(samples)
    members = [
        Member(build(sizes, place), place.arm.prediction, place.arm.weighting, sets[place.mixture], place.seed)
        for place in places(sizes)
    ]
    steps = [max(1, round(epochs * sizes.samples / sizes.optimiser.batch_size)) for epochs in sizes.checkpoints]
    training = train_stack(members, SCHEDULE, throws=sizes.throws, checkpoints=steps, **sizes.optimiser.model_dump())
    bar = tqdm(training, total=max(steps), desc=outputs["models"].stem, unit="step", mininterval=2)
    stacks = {step: stack for step, stack in bar if stack is not None}
    save(outputs["models"], sizes, [stacks[step] for step in steps])
