"""Bits per dimension of trained networks, image by image, by both estimators and under every dequantization.

Every test uses the same random numbers for one image, whatever the network: differences between networks, and between
dequantizations of one network, have far less noise than the values.

The images are measured in shards, each with random numbers of its own; a job that was stopped measures those that it
had not finished.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.bound import IMAGES_PER_CALL
from diffusion_density.density.images.dequantization import Scheme, start_gamma
from diffusion_density.density.result import LogDensity
from diffusion_density.process.model import DiffusionModel
from diffusion_density.studies.max_likelihood.models import columns, last, load
from diffusion_density.studies.max_likelihood.runs import Evaluation, LikelihoodJob
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded
from diffusion_density.studies.shared.shards import Shards

_SEED = 20230506  # of dequantization, probes and throws, which all networks share; plus the number of the first image


@dataclass(frozen=True)
class Test:
    """One way to get at the probability of an image."""

    estimator: str
    images: int
    scheme: Scheme = "truncated_normal"
    late: bool = False
    draws: int = 1

    @property
    def name(self) -> str:
        """One word for files."""
        return f"{self.estimator}-{self.scheme}{'-late' if self.late else ''}-{self.draws}"

    @property
    def columns(self) -> dict[str, str | int | bool]:
        """What names it in a table."""
        return {
            "estimator": self.estimator,
            "dequantization": self.scheme,
            "late_start": self.late,
            "draws": self.draws,
        }


def tests(evaluation: Evaluation) -> list[Test]:
    """Both estimators on all images, and on some of them the flow under every other dequantization.

    Uniform dequantization is tried where the others start and, as in the paper, later (``start_gamma``).
    """
    count, some = evaluation.likelihood.images, evaluation.dequantized
    chosen = [Test("bound", count, "variational"), Test("flow", count)]
    if some:
        chosen += [
            Test("flow", some, "uniform"),
            Test("flow", some, "uniform", late=True),
            Test("flow", some, "variational"),
            Test("flow", some, "truncated_normal", draws=evaluation.draws),
        ]
    return chosen


def run(sizes: LikelihoodJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> Path:
    """Measure what the networks of a run ended with, and write one row per image and test.

    Returns:
        The folder of this measurement's shards, to be removed.

    Raises:
        InputError: if the networks are of another run, or were trained on other images.
    """
    name, trained, evaluation, images = sizes.name, sizes.run, sizes.evaluation, inputs.images
    models, device = inputs.files["models"], str(inputs.device)
    found = load(models, trained, images, device)
    keys = sorted(found) if trained.equal_compute else [last(found, seed)[0] for seed in trained.seeds]
    chosen = tests(evaluation)
    settings = {
        "run": trained.model_dump(mode="json"),
        "evaluation": evaluation.model_dump(mode="json"),
        "images": dict(images.sha256),
        "models": hashlib.sha256(models.read_bytes()).hexdigest(),
        "device": device,
        "rows": IMAGES_PER_CALL,
    }
    shards = Shards(inputs.work, name, __name__, settings)
    total = len(keys) * sum(min(test.images, len(images.test)) * test.draws for test in chosen)
    with tqdm(total=total, desc=name, unit="image", mininterval=1) as bar:
        for seed, step in keys:
            for test in chosen:
                common = {"dataset": images.name, **columns(name, trained, seed, step), **test.columns}
                for first in range(0, min(test.images, len(images.test)), IMAGES_PER_CALL):
                    count = min(IMAGES_PER_CALL, test.images - first, len(images.test) - first)
                    measure = partial(_shard, found[seed, step], images, test, evaluation, device, first, count, common)
                    shards.add(f"{seed}-{step}-{test.name}-{first:05d}", measure)
                    bar.update(count * test.draws)
    shards.write(outputs["table"])
    return shards.folder


def _shard(
    model: DiffusionModel,
    images: ImageSet,
    test: Test,
    evaluation: Evaluation,
    device: str,
    first: int,
    count: int,
    common: dict[str, Any],
) -> pd.DataFrame:
    """The rows of ``count`` images from ``first`` on."""
    result = _result(model, images, test, evaluation, device, first, count)
    assert result.status is not None
    rows = {
        "density": result.density,
        "kind": result.kind,
        "image": range(first, first + count),
        "bits_per_dim": result.value.tolist(),
        "stderr_bits_per_dim": None if result.stderr is None else result.stderr.tolist(),
        "network_evaluations": result.network_evaluations,
        "status": result.status.tolist(),
    }
    return pd.DataFrame(common | rows)


def _result(
    model: DiffusionModel, images: ImageSet, test: Test, evaluation: Evaluation, device: str, first: int, count: int
) -> LogDensity:
    """Bits/dim of ``count`` images from ``first`` on, whose random numbers are those of their shard."""
    generator = seeded(_SEED, first)
    settings = evaluation.likelihood
    options: dict[str, Any] = {"levels": images.levels, "estimator": test.estimator, "generator": generator}
    if test.estimator == "bound":
        options["throws"] = settings.throws
    else:
        gamma = start_gamma(images.levels, "uniform") if test.late else start_gamma(images.levels)
        options |= {
            "dequantization": test.scheme,
            "start": float(model.schedule.inverse(torch.tensor(-gamma, dtype=torch.float64))),
            "rtol": settings.tolerance,
            "atol": settings.tolerance,
            "draws": test.draws,
            "importance_weighted": test.draws > 1,
        }
    return bits_per_dim(model, images.test[first : first + count].to(device), **options)
