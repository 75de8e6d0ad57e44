"""Training: the networks of one run, seed after seed, which can continue after an interruption at any moment.

A job keeps its checkpoints and snapshots in a folder named for all that decides its outcome, which is of no use once
the result is written.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from diffusion_density.data.images import ImageSet
from diffusion_density.machine import artifacts
from diffusion_density.machine.devices import in_first
from diffusion_density.machine.errors import InputError
from diffusion_density.machine.runtime import use_bfloat16
from diffusion_density.studies.max_likelihood.models import Key, build, last, load_weights, objective, save
from diffusion_density.studies.max_likelihood.runs import Run, TrainingJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.training.cost import step_flops
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.loop import train_images
from diffusion_density.training.passes import ImageTraining


def run(sizes: TrainingJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> Path:
    """Train the networks of a run and write those of every snapshot.

    Returns:
        The folder of this run's checkpoints, to be removed.

    Raises:
        InputError: if the origin is missing or of another run.
        NumericalError: if a loss is not finite.
    """
    trained, images, devices = sizes.run, inputs.images, inputs.devices
    bfloat16 = use_bfloat16(sizes.precision, inputs.device)
    settings = trained.model_dump(mode="json") | {"bfloat16": bfloat16, "images": dict(images.sha256)}
    started = None
    if sizes.origin:
        origin = _origin(inputs.files)
        started = load_weights(origin, sizes.origin, images)
        settings["origin_sha256"] = hashlib.sha256(origin.read_bytes()).hexdigest()
    folder = inputs.work / f"{sizes.name}-{artifacts.settings_hash(settings)[:16]}"
    weights: dict[Key, dict[str, Tensor]] = {}
    losses: dict[int, Tensor] = {}
    for seed in trained.seeds:
        network = build(trained, images, seed)
        if started is not None:
            network.load_state_dict(last(started, seed)[1])
        snapshots = snapshot_steps(trained, images, network)
        kept = folder / f"seed-{seed}"
        result = train_images(
            network,
            images,
            objective(trained, images.levels),
            ImageTraining(steps=snapshots[-1], seed=seed, bfloat16=bfloat16, **trained.optimiser.model_dump()),
            kept,
            devices=devices,
            micro_batch=sizes.micro_batch,
            checkpoint_every=sizes.checkpoint_every,
            identity=settings,
            snapshots=snapshots,
            on_snapshot=partial(_write_snapshot, kept),
            progress=True,
        )
        losses[seed] = result.losses
        if devices.global_rank == 0:
            weights |= {(seed, step): artifacts.read_safetensors(_snapshot(kept, step))[0] for step in snapshots}
    in_first(devices, lambda: save(outputs["models"], trained, images, weights, losses))
    return folder


def _origin(files: Mapping[str, Path]) -> Path:
    if "origin" not in files:
        raise InputError("train: --input origin=PATH is needed by a run that goes on from another")
    return files["origin"]


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
