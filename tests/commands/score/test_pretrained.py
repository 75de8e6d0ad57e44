"""Models of the library `diffusers`: the predicted noise, exact bits/dim of a normal distribution, and errors."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn
from typer.testing import CliRunner

from diffusion_density.commands.cli import app
from diffusion_density.commands.score.pretrained import LEVELS, Noise, OfScaledData, betas, load
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.dequantization import dequantization, to_unit
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.schedules import Discrete

SCALE = LEVELS / (LEVELS - 1)


def save(folder: Path, prediction: str = "epsilon", schedule: str = "linear", **settings: Any) -> UNet2DModel:  # noqa: ANN401
    torch.manual_seed(3)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    scheduler = DDPMScheduler(beta_schedule=schedule, prediction_type=prediction, **settings)
    DDPMPipeline(unet, scheduler).save_pretrained(folder, safe_serialization=True)
    return unet.eval()


def images(number: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (number, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_noise_is_that_of_diffusers(tmp_path: Path, prediction: str, schedule: str) -> None:
    unet = save(tmp_path, prediction, schedule)
    model, shape = load(tmp_path)
    assert shape == (1, 8, 8)
    theirs = DDIMScheduler(
        beta_schedule=schedule, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(1000)
    pixels = images()
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for step in (0, 1, 400, 990):
        clean = 2 * (pixels.float() / 255) - 1
        x = theirs.add_noise(clean, noise, torch.tensor([step, step]))
        s = torch.full((2,), (step + 1) / 1000)
        alpha, sigma = model.schedule.at((step + 1) / 1000)
        torch.testing.assert_close(alpha * to_unit(pixels, 256) + sigma * noise, x, rtol=0, atol=2e-5)
        with torch.no_grad():
            output = unet(x, step).sample
        kept = theirs.alphas_cumprod[step].double()
        original = theirs.step(output, step, x).pred_original_sample
        expected = (x - kept.sqrt() * original) / (1 - kept).sqrt()
        # the library's own alphas are in single precision, of which 1 − ᾱ keeps three digits at the first step
        torch.testing.assert_close(model.noise(x, s), expected, rtol=5e-3, atol=5e-3)
        if prediction == "epsilon":
            torch.testing.assert_close(model.noise(x, s), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_betas_are_those_of_diffusers(schedule: str) -> None:
    theirs = DDPMScheduler(beta_schedule=schedule, num_train_timesteps=300)
    found = betas(dict(theirs.config), Path("scheduler_config.json"))
    torch.testing.assert_close(found.float(), theirs.betas, rtol=1e-4, atol=1e-7)
    given = DDPMScheduler(trained_betas=[0.1, 0.2, 0.3])
    assert betas(dict(given.config), Path()).tolist() == [0.1, 0.2, 0.3]


def test_between_the_steps_log_snr_is_linear_and_the_timestep_is_real() -> None:
    chain = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    times = []

    def network(x: torch.Tensor, timestep: torch.Tensor) -> SimpleNamespace:
        times.append(timestep)
        return SimpleNamespace(sample=x)

    wrapped = Noise(Function(network), Discrete(chain), "epsilon")
    wrapped(torch.zeros(3, 1, 2, 2), torch.tensor([0.001, 0.5005, 1.0]))
    torch.testing.assert_close(times[0], torch.tensor([0.0, 499.5, 999.0]), atol=1e-4, rtol=0)
    plain, scaled = Discrete(chain), OfScaledData(chain, SCALE)
    s = torch.tensor([0.001, 0.4005, 0.7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(scaled.alpha(s), SCALE * plain.alpha(s))
    torch.testing.assert_close(scaled.sigma(s), plain.sigma(s))
    torch.testing.assert_close(scaled.log_snr(s), 2 * (scaled.alpha(s) / scaled.sigma(s)).log())
    torch.testing.assert_close(scaled.inverse(scaled.log_snr(s)), s)
    torch.testing.assert_close(scaled.diffusion(s), plain.diffusion(s))
    torch.testing.assert_close(scaled.drift(s), plain.drift(s))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:  # noqa: ANN401
        return self.function(*arguments)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_exact_bits_of_a_normal_law(prediction: str) -> None:
    """The field of y ~ N(0, v I) is linear, so x_T = x √(m_T/m₁) with m = ᾱ v + σ², and log p is a closed form."""
    variance = 0.25
    chain = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    plain = Discrete(chain)

    def network(z: torch.Tensor, timestep: torch.Tensor) -> SimpleNamespace:
        s = (timestep + 1) / 1000
        alpha, sigma = (f(s)[:, None, None, None] for f in (plain.alpha, plain.sigma))
        noise = sigma * z / (variance * alpha**2 + sigma**2)
        clean = (z - sigma * noise) / alpha
        return SimpleNamespace(
            sample={"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}[prediction]
        )

    model = DiffusionModel(Noise(Function(network), plain, prediction), OfScaledData(chain, SCALE), "noise")
    x = images(3)
    found = bits_per_dim(
        model,
        x,
        draws=2,
        dequantization="uniform",
        divergence="exact",
        rtol=1e-7,
        atol=1e-7,
        generator=torch.Generator().manual_seed(4),
        dtype=torch.float64,
    )
    scheme = dequantization("uniform", 256, *model.schedule.at(model.schedule.s_start))
    generator = torch.Generator().manual_seed(4)
    first, last = ((lambda a, b: variance * a**2 + b**2)(*plain.at(s)) for s in (0.001, 1.0))
    prior = plain.at(1.0)[1] ** 2
    expected = []
    for image in x.split(1):
        versions = scheme.draw(image, 2, generator=generator, dtype=torch.float64)
        end = versions.z.flatten(2) * (last / first) ** 0.5
        log_prior = torch.distributions.Normal(0.0, prior**0.5).log_prob(end.double()).sum(2)
        log_prob = log_prior + 32 * np.log(last / first) + versions.mean_log_weight
        expected.append(-log_prob.mean() / (64 * np.log(2)))
    torch.testing.assert_close(found.value, torch.stack(expected), rtol=0, atol=1e-5)


def test_a_saved_pipeline_is_scored_by_one_command(tmp_path: Path) -> None:
    save(tmp_path / "ddpm")
    pixels = images()
    np.savez(tmp_path / "mine.npz", pixels.permute(0, 2, 3, 1).numpy())
    out = tmp_path / "scores.csv"
    arguments = [
        "score",
        f"npz:{tmp_path / 'mine.npz'}",
        "--model",
        f"diffusers:{tmp_path / 'ddpm'}",
        "--out",
        str(out),
    ]
    more = ["--estimator", "flow_hutchinson", "--estimator", "bound", "--throws", "32", "--draws", "2", "--seed", "1"]
    result = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out)
    model, _ = load(tmp_path / "ddpm")

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    flow = bits_per_dim(model, pixels, draws=2, rtol=1e-4, atol=1e-4, generator=generator())
    bound = bits_per_dim(model, pixels, estimator="bound", throws=32, generator=generator())
    assert np.allclose(table[table.estimator == "flow_hutchinson"].bits_per_dim, flow.value, rtol=1e-6)
    assert np.allclose(table[table.estimator == "bound"].bits_per_dim, bound.value, rtol=1e-6)


def test_parts_side_by_side_are_read_too(tmp_path: Path) -> None:
    """As the first models on the hub have them: google/ddpm-cifar10-32."""
    save(tmp_path / "new")
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("unet", "scheduler"):
        for file in (tmp_path / "new" / part).iterdir():
            file.rename(flat / file.name)
    (tmp_path / "new" / "model_index.json").rename(flat / "model_index.json")
    assert load(flat)[1] == (1, 8, 8)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "'sigmoid' is not one of linear"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type 'flow' is not one of"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "leaves no signal at the last step"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "is no scheduler with betas"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "a UNet2DModel is expected"),
        ("unet/config.json", {"num_class_embeds": 10}, "network of classes"),
        ("unet/config.json", {"time_embedding_type": "fourier"}, "must be positional"),
        ("unet/config.json", {"out_channels": 2}, "out_channels 2 is not in_channels 1"),
        ("unet/config.json", {"block_out_channels": [8, 16]}, "cannot be read|do not fit"),
        ("unet/config.json", {"layers_per_block": 2}, "the weights do not fit config"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "latent codes"),
    ],
)
def test_what_is_no_model_of_pixels_is_one_line(
    tmp_path: Path, part: str, values: dict[str, object], message: str
) -> None:
    save(tmp_path)
    change(tmp_path / part, **values)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickled_absent_and_truncated_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match=r"holds no weights diffusion_pytorch_model\.safetensors"):
        load(tmp_path)
    weights.with_suffix(".bin").write_bytes(content)
    with pytest.raises(InputError, match=r"a pickle \(\.bin\).*save_pretrained"):
        load(tmp_path)
