"""Models that the verb `score` can read, each by what its file or folder is, for the points or images at hand.

| what | read as |
|---|---|
| a mixture's JSON | its exact diffusion |
| a file of `train` (safetensors) | a network on points |
| a run of the study `max_likelihood` (safetensors) | one of its networks, chosen by seed and step |
| a folder of `diffusers` | a U-Net on images of 256 levels |
"""

from pathlib import Path

import torch

from diffusion_density.commands.score import pretrained
from diffusion_density.data.images import ImageSet
from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.mixtures import GaussianMixture
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import VariancePreserving
from diffusion_density.studies.max_likelihood import models as runs
from diffusion_density.studies.max_likelihood.runs import DIGITS
from diffusion_density.training import saved


def read_mixture(path: Path) -> GaussianMixture:
    """A mixture from JSON with the keys weights (K), means (K×D) and covariances (K×D×D).

    Raises:
        InputError: naming the key that is missing, unknown or wrong.
    """
    value = artifacts.read_json(path)
    keys = {"weights", "means", "covariances"}
    if not isinstance(value, dict) or set(value) != keys:
        got = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: the keys weights, means and covariances are expected, got {got}")
    try:
        return GaussianMixture(**{key: torch.tensor(value[key], dtype=torch.float64) for key in keys})
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def of_points(model: Path | None, mixture: Path | None, dimension: int) -> Model:
    """The model of a file that `train` wrote, or the exact diffusion of a mixture, for points of ``dimension`` numbers.

    Raises:
        InputError: if not exactly one is given, it is of images, or it has another dimension.
    """
    if (model is None) == (mixture is None):
        raise InputError("give either --model or --mixture")
    chosen: Model
    if mixture is not None:
        exact = read_mixture(mixture)
        found, chosen = exact.dimension, exact.diffused(VariancePreserving())
    else:
        assert model is not None
        if model.is_dir():
            raise InputError(f"{model}: a folder holds a model of images; these are points")
        trained, settings = saved.load(model)
        assert isinstance(trained.network, torch.nn.Module)
        trained.network.double()
        found, chosen = settings.dimension, trained
    if found != dimension:
        raise InputError(f"{model or mixture}: has {found} dimensions, the points have {dimension} columns")
    return chosen


def of_images(
    model: Path, images: ImageSet, *, seed: int | None = None, step: int | None = None, device: str = "cpu"
) -> Model:
    """The model of a run of `max_likelihood` or of a folder of `diffusers`, for these images.

    Args:
        model: the file or folder.
        images: what it is for: their channels, size and levels must be those of the model. (A run on someone's own npz
            does not say what its images were like, beyond what the shapes of its weights say.)
        seed: of a run; its first by default.
        step: of a run, a snapshot; its last by default.
        device: where the network goes.

    Raises:
        InputError: for a file or folder of another kind, images that do not fit, or a network that is not there.
    """
    if model.is_dir():
        if seed is not None or step is not None:
            raise InputError(f"{model}: a folder holds one network; --network-seed and --step are for runs")
        if not pretrained.is_pretrained(model):
            raise InputError(f"{model}: holds no model of diffusers: no model_index.json, no scheduler_config.json")
        read, shape = pretrained.load(model, device)
        _check(model, images, shape, pretrained.LEVELS)
        return read
    run = runs.run_of(model)
    if not run.dataset.startswith("npz:"):
        _check(model, images, *(((1, 8, 8), 17) if run.dataset == DIGITS else ((3, 32, 32), 256)))
    try:
        found = runs.load(model, run, images, device, others=True)
    except RuntimeError:
        raise InputError(f"{model}: its weights are not for images of {images.shape[0]} channels") from None
    chosen = run.seeds[0] if seed is None else seed
    steps = [at for of, at in found if of == chosen]
    if not steps:
        raise InputError(f"{model}: has no network of seed {chosen}; it has {', '.join(map(str, run.seeds))}")
    if step is not None and step not in steps:
        raise InputError(f"{model}: seed {chosen} was kept after {', '.join(map(str, steps))} steps, not after {step}")
    return found[chosen, steps[-1] if step is None else step]


def _check(model: Path, images: ImageSet, shape: tuple[int, int, int], levels: int) -> None:
    if images.shape != shape or images.levels != levels:
        raise InputError(
            f"{images.name}: images are {images.shape} (C, H, W) of {images.levels} levels;"
            f" {model} is a model of {shape} of {levels}"
        )
