r"""Models that the `diffusers` library saved on disk, read as models of this library. Needs the extra ``diffusers``.

A folder holds a U-Net (`UNet2DModel`: its configuration and safetensors weights) and the configuration of a scheduler,
as ``save_pretrained`` of a DDPM or DDIM pipeline writes them. Nothing is downloaded and nothing is unpickled.

*Time.* The scheduler has T betas and steps i = 0 … T − 1. Step i is the time s = (i + 1)/T of
:class:`~diffusion_density.process.schedules.Discrete`, where λ is linear between the steps. The sinusoidal embedding of
the U-Net is defined for every real number, so the U-Net is called with the timestep T s − 1 between the steps too.

*Pixels.* `diffusers` maps levels 0 … B − 1 to [−1, 1] by y = 2 k/(B − 1) − 1. The density of an integer image here uses
bin centres x = 2 (k + ½)/B − 1. The two differ by a scale, y = c x with c = B/(B − 1), so
z = α y + σ ε = c α x + σ ε is a process of the data x with the factor c α. λ grows by 2 log c; drift f and diffusion g²
are the same.

*Prediction.* With y = (z − σ ε)/α and α² + σ² = 1: ``epsilon`` is the noise; ``v_prediction``, α ε − σ y, is the
velocity; ``sample``, ŷ, gives ε̂ = (z − α ŷ)/σ. The clipping of samples by a sampler does not belong to the density.
"""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from diffusion_density.machine import artifacts
from diffusion_density.machine.errors import InputError
from diffusion_density.process.batches import per_row
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import from_score, to_score
from diffusion_density.process.schedules import Discrete, Schedule

LEVELS = 256
PREDICTIONS = ("epsilon", "sample", "v_prediction")
WEIGHTS = "diffusion_pytorch_model"


class OfScaledData(Discrete):
    """The process of data that are multiplied by ``scale``, written for the data themselves: α is scale · √ᾱ.

    Args:
        betas: (T,) as for `Discrete`.
        scale: c.

    Raises:
        InputError: as `Discrete`.
    """

    def __init__(self, betas: Float[Tensor, " t"], scale: float) -> None:
        super().__init__(betas)
        self.log_scale = math.log(scale)
        self.log_snr_steps = self.log_snr_steps + 2 * self.log_scale

    def log_alpha(self, s: Tensor) -> Tensor:
        return self.log_scale + 0.5 * logsigmoid(self.log_snr(s) - 2 * self.log_scale)

    def sigma(self, s: Tensor) -> Tensor:
        return (2 * self.log_scale - self.log_snr(s)).sigmoid().sqrt()

    def diffusion(self, s: Tensor) -> Tensor:
        log_snr, slope = self._segment(s)
        return -slope * (2 * self.log_scale - log_snr).sigmoid()

    velocity = Schedule.velocity  # α² + σ² is not 1


class Noise(nn.Module):
    """A network of integer timesteps as a network that is called as ``network(x, s)`` and predicts the noise.

    Args:
        network: called as ``network(x, timesteps)``; its output is the attribute ``sample`` of the result.
        chain: the schedule with its betas.
        prediction: ``epsilon``, ``sample`` or ``v_prediction``.
    """

    def __init__(self, network: nn.Module, chain: Discrete, prediction: str) -> None:
        super().__init__()
        self.network = network
        self.chain = chain
        self.prediction = prediction

    def forward(self, x: Float[Tensor, "b c h w"], s: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        output: Tensor = self.network(x, s * len(self.chain.betas) - 1).sample
        if self.prediction == "epsilon":
            return output
        if self.prediction == "v_prediction":
            return from_score("noise", to_score("velocity", output, self.chain, x, s), self.chain, x, s)
        return (x - per_row(self.chain.alpha(s), x) * output) / per_row(self.chain.sigma(s), x)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder looks like one of `diffusers`."""
    return (folder / "model_index.json").is_file() or _config(folder, "scheduler", "scheduler_config.json").is_file()


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[DiffusionModel, tuple[int, int, int]]:
    """The model in a folder, without gradients, and the shape (C, H, W) of its images of 256 levels.

    Raises:
        InputError: without the extra; for a folder that lacks a part; for a pipeline, network, schedule or prediction
            of anything but an unconditional model of pixels; for weights that are absent, pickled, truncated or do not
            fit.
    """
    if find_spec("diffusers") is None:
        raise InputError("a model of diffusers needs that library: pip install 'diffusion-density[diffusers]'")
    index = artifacts.read_json(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    if "vae" in index or "vqvae" in index:
        raise InputError(f"{folder}: a model of latent codes has no density of pixels")
    scheduler = _config(folder, "scheduler", "scheduler_config.json")
    values = _read(scheduler)
    prediction = values.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InputError(f"{scheduler}: prediction_type {prediction!r} is not one of {', '.join(PREDICTIONS)}")
    chain = betas(values, scheduler)
    unet = _config(folder, "unet", "config.json")
    settings = _read(unet)
    shape = _shape(settings, unet)
    network = _unet(unet.parent).to(device)
    schedule = OfScaledData(chain, LEVELS / (LEVELS - 1))
    return DiffusionModel(Noise(network, Discrete(chain), prediction), schedule, "noise"), shape


def betas(values: dict[str, Any], label: Path) -> Float[Tensor, " t"]:
    """The betas in the configuration of a scheduler, in double precision.

    Raises:
        InputError: for an unknown schedule, or one whose last step has no signal.
    """
    if values.get("rescale_betas_zero_snr"):
        raise InputError(f"{label}: rescale_betas_zero_snr leaves no signal at the last step, where log p needs some")
    try:
        if values.get("trained_betas") is not None:
            return torch.tensor(values["trained_betas"], dtype=torch.float64)
        kind = values["beta_schedule"]
        count, first, last = int(values["num_train_timesteps"]), float(values["beta_start"]), float(values["beta_end"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{label}: is no scheduler with betas ({type(error).__name__}: {error})") from None
    match kind:
        case "linear":
            return torch.linspace(first, last, count, dtype=torch.float64)
        case "scaled_linear":
            return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64).square()
        case "squaredcos_cap_v2":
            from diffusion_density.process.schedules.discrete import cosine

            return cosine(count).betas
    raise InputError(f"{label}: beta_schedule {kind!r} is not one of linear, scaled_linear, squaredcos_cap_v2")


def _config(folder: Path, part: str, name: str) -> Path:
    """The configuration of a part: in its own folder, or in the folder of the model as in the first such models."""
    inside = folder / part / name
    return inside if inside.parent.is_dir() else folder / name


def _read(path: Path) -> dict[str, Any]:
    values = artifacts.read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold keys with values")
    return values


def _shape(settings: dict[str, Any], label: Path) -> tuple[int, int, int]:
    """(C, H, W) of a U-Net that depends on the image and on any real timestep, and on nothing else."""
    if settings.get("_class_name") != "UNet2DModel":
        raise InputError(f"{label}: a UNet2DModel is expected, not {settings.get('_class_name')}")
    if settings.get("class_embed_type") is not None or settings.get("num_class_embeds") is not None:
        raise InputError(f"{label}: a network of classes has no unconditional density")
    if settings.get("time_embedding_type", "positional") != "positional":
        raise InputError(f"{label}: time_embedding_type must be positional, not {settings['time_embedding_type']!r}")
    channels, size = settings.get("in_channels"), settings.get("sample_size")
    height, width = size if isinstance(size, list) else (size, size)
    if channels not in (1, 3) or not isinstance(height, int) or not isinstance(width, int):
        raise InputError(f"{label}: 1 or 3 in_channels and a sample_size are expected, not {channels} and {size}")
    if settings.get("out_channels") != channels:
        raise InputError(f"{label}: out_channels {settings.get('out_channels')} is not in_channels {channels}")
    return channels, height, width


def _unet(folder: Path) -> nn.Module:
    """The network in a folder, from its safetensors weights."""
    if not any(folder.glob(f"{WEIGHTS}*.safetensors")):
        pickled = any(folder.glob(f"{WEIGHTS}*.bin"))
        raise InputError(
            f"{folder}: its weights are a pickle (.bin), which could run code and is not read; where you trust it,"
            " load it with diffusers and save it again by save_pretrained(folder, safe_serialization=True)"
            if pickled
            else f"{folder}: holds no weights {WEIGHTS}.safetensors"
        )
    from diffusers import UNet2DModel
    from safetensors import SafetensorError

    try:
        network, loading = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{folder}: cannot be read: {reason}") from error
    wrong = [key for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in loading[kind]]
    if wrong:
        raise InputError(f"{folder}: the weights do not fit config.json, first at {wrong[0]}")
    module: nn.Module = network.requires_grad_(False).eval()
    return module
