"""Models that `score` can read, each recognised by what its file or folder is.

| what | read as |
|---|---|
| a JSON file of a mixture | its exact diffusion |
| a file that `train` wrote (safetensors) | a network on points |
| a run of the study `max_likelihood` (safetensors) | one of its networks, chosen by seed and step |
| a folder of `diffusers` | a U-Net on images of 256 levels |
"""

from dataclasses import dataclass
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

DIFFUSERS = "diffusers:"


@dataclass(frozen=True)
class ModelChoice:
    """Which model to score with. One of ``model`` and ``mixture`` is needed, and for images ``model``.

    Attributes:
        model: a file, a folder, or ``diffusers:`` and a folder.
        mixture: the JSON file of a mixture.
        network_seed: which network of a run; its first by default.
        step: which snapshot of that network; its last by default.
        device: where a network on images computes, ``cpu`` or ``cuda``.
    """

    model: str | None = None
    mixture: Path | None = None
    network_seed: int | None = None
    step: int | None = None
    device: str = "cpu"

    def for_points(self, dimension: int) -> Model:
        """The model of a file that `train` wrote, or the exact diffusion of a mixture, in double precision.

        Raises:
            InputError: if not exactly one is given, it is a model of images, or it has another dimension.
        """
        if (self.model is None) == (self.mixture is None):
            raise InputError("give either --model or --mixture")
        found: Model
        if self.mixture is not None:
            exact = read_mixture(self.mixture)
            size, found = exact.dimension, exact.diffused(VariancePreserving())
        else:
            path = self._path()
            if path.is_dir():
                raise InputError(f"{path}: a folder holds a model of images; these are points")
            trained, settings = saved.load(path)
            assert isinstance(trained.network, torch.nn.Module)
            trained.network.double()
            size, found = settings.dimension, trained
        if size != dimension:
            given = self.model or self.mixture
            raise InputError(f"{given}: has {size} dimensions, the points have {dimension} columns")
        return found

    def for_images(self, images: ImageSet) -> Model:
        """The model of a run of `max_likelihood` or of a folder of `diffusers`, on the device.

        The images must have the channels, size and levels of the model. (A run on someone's own npz does not say what
        its images were like, except by the shapes of its weights.)

        Raises:
            InputError: for a file or folder of another kind, images that do not fit, a network that is not there, or
                a GPU that is not there.
        """
        if self.model is None or self.mixture is not None:
            raise InputError("score: images need --model, and no --mixture")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("score: --device cuda: torch finds no GPU")
        path = self._path()
        if path.is_dir():
            if self.network_seed is not None or self.step is not None:
                raise InputError(f"{path}: a folder holds one network; --network-seed and --step are for runs")
            if not pretrained.is_pretrained(path):
                raise InputError(f"{path}: holds no model of diffusers: no model_index.json, no scheduler_config.json")
            model, shape = pretrained.load(path, self.device)
            _check(path, images, shape, pretrained.LEVELS)
            return model
        return self._of_run(path, images)

    def _path(self) -> Path:
        name = str(self.model)
        path = Path(name.removeprefix(DIFFUSERS))
        if name.startswith(DIFFUSERS) and not path.is_dir():
            raise InputError(f"{path}: is no folder")
        return path

    def _of_run(self, path: Path, images: ImageSet) -> Model:
        run = runs.run_of(path)
        if not run.dataset.startswith("npz:"):
            _check(path, images, *(((1, 8, 8), 17) if run.dataset == DIGITS else ((3, 32, 32), 256)))
        try:
            found = runs.load(path, run, images, self.device, others=True)
        except RuntimeError:
            raise InputError(f"{path}: its weights are not for images of {images.shape[0]} channels") from None
        seed = run.seeds[0] if self.network_seed is None else self.network_seed
        steps = [step for of, step in found if of == seed]
        if not steps:
            raise InputError(f"{path}: has no network of seed {seed}; it has {', '.join(map(str, run.seeds))}")
        if self.step is not None and self.step not in steps:
            known = ", ".join(map(str, steps))
            raise InputError(f"{path}: seed {seed} was kept after {known} steps, not after {self.step}")
        return found[seed, steps[-1] if self.step is None else self.step]


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


def _check(path: Path, images: ImageSet, shape: tuple[int, int, int], levels: int) -> None:
    if images.shape != shape or images.levels != levels:
        raise InputError(
            f"{images.name}: images are {images.shape} (C, H, W) of {images.levels} levels;"
            f" {path} is a model of {shape} of {levels}"
        )
