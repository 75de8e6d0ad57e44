r"""What a trained image model finds likely, and what its samples of high density look like.

Every image is scored by one estimator, the variational bound of the SDE in bits/dim, with the same throws for every
group, so that differences between groups are paired where images are. Groups (one row per image):

* ``test`` images, and the same ``blurred`` by a normal kernel of several widths in pixels;
* ``sde`` and ``flow``, ordinary samples; ``high_density`` samples for several threshold log-SNRs, and ``guided`` ones
  for several quantiles;
* images of no photograph at all: ``shuffled`` (the pixels of a test image in random order), ``grey`` (each test image's
  mean colour), and ``stripes``.

``png_bytes`` is the size of an image's PNG file, a measure of its detail that knows nothing of the model.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import conv2d, pad
from tqdm import tqdm

from diffusion_density.data import coders
from diffusion_density.data.images import ImageSet
from diffusion_density.density.images.bits import bits_per_dim
from diffusion_density.density.images.dequantization import to_images
from diffusion_density.machine import artifacts
from diffusion_density.process.model import DiffusionModel
from diffusion_density.sampling.guidance import guided
from diffusion_density.sampling.mode_tracking import high_density
from diffusion_density.sampling.samplers import sample
from diffusion_density.studies.high_density.sizes import Images, ImagesJob
from diffusion_density.studies.max_likelihood.models import last, load
from diffusion_density.studies.shared.inputs import ImageInputs
from diffusion_density.studies.shared.seeds import seeded

SEED = 16

Group = tuple[str, float, UInt8[Tensor, "n c h w"]]


def run(sizes: ImagesJob, inputs: ImageInputs, outputs: Mapping[str, Path]) -> None:
    """Score every group with the network of the run's first seed, and keep the sampled images.

    Raises:
        InputError: if the networks are of another run.
    """
    images, device, seed = inputs.images, inputs.device, sizes.seeds[0]
    (_, step), model = last(load(inputs.files["models"], sizes.run, images, device), seed)
    tables, sampled = [], {}
    groups = [*real_groups(images, sizes.images), *_sampled_groups(model, images, sizes.images, device)]
    for group, parameter, pictures in tqdm(groups, desc=sizes.name, unit="group"):
        scores = bits_per_dim(
            model,
            pictures.to(device),
            levels=images.levels,
            estimator="bound",
            throws=sizes.images.throws,
            generator=seeded(SEED, device=device),
        )
        assert scores.stderr is not None
        columns = {
            "image": range(len(pictures)),
            "bits_per_dim": scores.value.double().cpu().numpy(),
            "stderr_bits_per_dim": scores.stderr.double().cpu().numpy(),
            "png_bytes": (coders.bits_per_dim(pictures, "png") * pictures[0].numel() / 8).round().long().numpy(),
        }
        common = {"dataset": images.name, "run": sizes.name, "seed": seed, "step": step}
        tables.append(pd.DataFrame(common | {"group": group, "parameter": parameter} | columns))
        sampled[f"{group} {parameter:g}"] = pictures[: sizes.images.shown]
    artifacts.write_csv(outputs["table"], pd.concat(tables))
    artifacts.write_safetensors(outputs["samples"], sampled, {"levels": images.levels})


def real_groups(images: ImageSet, sizes: Images) -> Iterator[Group]:
    """Test images and what is made of them."""
    test = images.test[: sizes.images]
    yield "test", math.nan, test
    for width in sizes.blurs:
        yield "blurred", width, blurred(test, width, images.levels)
    few = test[: sizes.samples]
    generator = seeded(SEED)
    order = (
        torch.rand(len(few), few[0, 0].numel(), generator=generator).argsort(1)[:, None].expand(-1, few.shape[1], -1)
    )
    yield "shuffled", math.nan, few.flatten(2).gather(2, order).reshape(few.shape)
    grey = few.double().mean((2, 3), keepdim=True).round().to(torch.uint8)
    yield "grey", math.nan, grey.expand(few.shape).contiguous()
    rows = torch.arange(few.shape[2])[:, None] // 2 % 2 == 0
    yield "stripes", math.nan, torch.where(rows, grey, torch.zeros_like(grey)).expand(few.shape).contiguous()


def blurred(images: UInt8[Tensor, "n c h w"], width: float, levels: int) -> UInt8[Tensor, "n c h w"]:
    """Images blurred by a normal kernel of standard deviation ``width`` in pixels, with mirrored borders."""
    reach = min(math.ceil(3 * width), images.shape[-1] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width).square())
    kernel = (kernel / kernel.sum())[None, None, None]
    channels = images.shape[1]
    x = pad(images.float(), (reach,) * 4, mode="reflect")
    x = conv2d(x, kernel.expand(channels, 1, 1, -1), groups=channels)
    x = conv2d(x, kernel.mT.expand(channels, 1, -1, 1), groups=channels)
    return x.round().clamp(0, levels - 1).to(torch.uint8)


def _sampled_groups(model: DiffusionModel, images: ImageSet, sizes: Images, device: torch.device) -> Iterator[Group]:
    """Ordinary samples, samples of high density, and guided ones, from the same latents."""
    alpha, _ = model.schedule.at(model.schedule.s_start)
    event, count = images.shape, sizes.samples

    def same() -> torch.Generator:
        return seeded(SEED, device=device)

    def pictures(x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        return to_images(x.cpu() / alpha, images.levels)

    for kind, kappa in (("sde", 1.0), ("flow", 0.0)):
        x = sample(model, count, event, steps=5 * sizes.steps, stochasticity=kappa, generator=same())
        yield kind, math.nan, pictures(x)
    for threshold in sizes.thresholds:
        x = high_density(model, count, event, threshold=threshold, steps=sizes.steps, generator=same())
        yield "high_density", threshold, pictures(x)
    for quantile in sizes.quantiles:
        found = guided(model, count, event, quantile=quantile, steps=sizes.steps, generator=same())
        yield "guided", quantile, pictures(found.x)
