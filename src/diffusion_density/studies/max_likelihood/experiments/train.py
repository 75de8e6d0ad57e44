"""Training jobs of paper D: the networks of one run, seed after seed, resumable at any moment.

A job keeps its checkpoints and snapshots in a folder named for all that decides its outcome, which is of no use once
the result is written.
"""

import hashlib
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from diffusion_density.data.images import ImageSet
from diffusion_density.machine import artifacts
from diffusion_density.machine.devices import Devices, in_first
from diffusion_density.studies.max_likelihood.models import Key, build, last, load_weights, objective, save
from diffusion_density.studies.max_likelihood.runs import Run
from diffusion_density.training.cost import step_flops
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.loop import train_images
from diffusion_density.training.passes import ImageTraining

CHECKPOINT_EVERY = 200  # steps


def train(
    name: str,
    run: Run,
    images: ImageSet,
    out: Path,
    *,
    work: Path,
    devices: Devices,
    bfloat16: bool = False,
    micro_batch: int | None = None,
    origin: tuple[Path, Run] | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
) -> Path:
    """Train the networks of a run and write those of every snapshot.

    Args:
        name: of the run.
        run: what to train.
        images: the image set of the run.
        out: the file of networks to write.
        work: folder for the checkpoints of all runs.
        devices: where to train.
        bfloat16: whether convolutions are computed in bfloat16.
        micro_batch: images that a device takes at once; by default all of its share.
        origin: the networks to go on from, and their run.
        checkpoint_every: steps between checkpoints.

    Returns:
        The folder of this run's checkpoints, to be removed.

    Raises:
        InputError: if the origin is of another run.
        NumericalError: if a loss is not finite.
    """
    settings = run.model_dump(mode="json") | {"bfloat16": bfloat16, "images": dict(images.sha256)}
    started = load_weights(*origin, images) if origin else None
    if origin:
        settings["origin_sha256"] = hashlib.sha256(origin[0].read_bytes()).hexdigest()
    folder = work / f"{name}-{artifacts.settings_hash(settings)[:16]}"
    weights: dict[Key, dict[str, Tensor]] = {}
    losses: dict[int, Tensor] = {}
    for seed in run.seeds:
        network = build(run, images, seed)
        if started is not None:
            network.load_state_dict(last(started, seed)[1])
        snapshots = snapshot_steps(run, images, network)
        kept = folder / f"seed-{seed}"
        trained = train_images(
            network,
            images,
            objective(run, images.levels),
            ImageTraining(steps=snapshots[-1], seed=seed, bfloat16=bfloat16, **run.optimiser.model_dump()),
            kept,
            devices=devices,
            micro_batch=micro_batch,
            checkpoint_every=checkpoint_every,
            identity=settings,
            snapshots=snapshots,
            on_snapshot=partial(_write_snapshot, kept),
            progress=True,
        )
        losses[seed] = trained.losses
        if devices.global_rank == 0:
            weights |= {(seed, step): artifacts.read_safetensors(_snapshot(kept, step))[0] for step in snapshots}
    in_first(devices, lambda: save(out, run, images, weights, losses))
    return folder


def snapshot_steps(run: Run, images: ImageSet, network: nn.Module) -> list[int]:
    """The steps after which weights are kept, the last being the end.

    A control of second-order training also goes on to the steps that cost as much, by counted operations.
    """
    if not run.equal_compute:
        return list(run.snapshots)
    ratio = second_order_cost(run, images, network)
    return sorted({*run.snapshots, round(run.snapshots[-1] * ratio)})


def second_order_cost(run: Run, images: ImageSet, network: nn.Module) -> float:
    """Operations of a step with the trace term, over those of one without."""
    path = objective(run, images.levels).schedule
    first, second = (FlowMatching(path, run.arm.prediction, run.arm.times, weight) for weight in (0.0, 1.0))
    return step_flops(network, second, images.shape) / step_flops(network, first, images.shape)


def _snapshot(folder: Path, step: int) -> Path:
    return folder / f"snapshot-{step}.safetensors"


def _write_snapshot(folder: Path, step: int, network: nn.Module) -> None:
    artifacts.write_safetensors(_snapshot(folder, step), network.state_dict())
