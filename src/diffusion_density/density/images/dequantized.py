r"""Bits per dimension of images by any estimator of log p at points, or by the density formula.

:mod:`diffusion_density.density.images.bits` has the flow and the variational bound. Other estimators give upper bounds
on bits/dim in the same way:

* estimators of log p(z) at given points: K versions z of an image, from any distribution q of
  :mod:`diffusion_density.density.images.dequantization`, and the mean of log p(z) + log P(k|z) − log q(z|k) over them;
* the density formula, which is itself a mean of log p over z ~ N(α₀ x, σ₀² I): the ``variational`` distribution, for
  which E log P(k|z) is a sum over pixels (:func:`diffusion_density.density.images.bound.reconstruction_table`).

A lower bound on log p(z) in expectation gives an upper bound on bits/dim in expectation.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_density.density.formula import formula
from diffusion_density.density.images.bound import IMAGES_PER_CALL, check_images, checked_start, reconstruction_table
from diffusion_density.density.images.dequantization import Scheme, Variational, nats_to_bits_per_dim, to_unit
from diffusion_density.density.images.dequantization import dequantization as scheme_named
from diffusion_density.density.result import LogDensity, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model

Estimate = Callable[[Model, Tensor], LogDensity]


def dequantized_bits(
    model: Model,
    images: Tensor,
    estimate: Estimate,
    *,
    levels: int = 256,
    dequantization: Scheme = "truncated_normal",
    draws: int = 4,
    generator: torch.Generator,
    chunk: int = IMAGES_PER_CALL,
    dtype: torch.dtype = torch.float32,
) -> LogDensity:
    """−log₂ P(image)/N by an estimator of log p at points, averaged over K dequantized versions of each image.

    Args:
        model: the score and its schedule, trained on images mapped by ``dequantization.to_unit``.
        images: (B, C, H, W) uint8, values below ``levels``, on the model's device.
        estimate: from a model and points (R, C, H, W) at the time s_start to their log densities in nats, which must
            be exact, unbiased or lower bounds.
        levels: the number of integer levels, 2 to 256.
        dequantization: ``truncated_normal``, ``uniform`` or ``variational``.
        draws: K.
        generator: draws the versions.
        chunk: the most versions in one call of the estimator.
        dtype: of the versions.

    Returns:
        LogDensity in bits/dim, an ``upper`` bound in expectation. Its standard error is that of the draws, which
        includes the estimator's own; it is None for one draw. ``network_evaluations`` are those of one image.

    Raises:
        InputError: for images as in `check_images`, settings out of range, or an estimator of upper bounds on log p.
    """
    check_images(images, levels)
    if draws < 1 or chunk < 1:
        raise InputError(f"dequantized_bits: draws and chunk must be at least 1, got {draws} and {chunk}")
    scheme = scheme_named(dequantization, levels, *model.schedule.at(checked_start(model, None)))
    dims = images[0].numel()
    values, stderrs = [], []
    for their, part in model.split(images, max(1, chunk // draws)):
        versions = scheme.draw(part, draws, generator=generator, dtype=dtype)
        result = estimate(their, versions.z.flatten(0, 1))
        if result.kind == "upper":
            raise InputError("dequantized_bits: an upper bound on log p gives no bound on the probability of an image")
        value, stderr = versions.average(result.value.reshape(len(part), draws))
        values.append(nats_to_bits_per_dim(value, dims))
        if stderr is not None:
            stderrs.append(-nats_to_bits_per_dim(stderr, dims))
    return estimated(
        torch.cat(values),
        torch.cat(stderrs) if stderrs else None,
        kind="upper",
        density=result.density,
        network_evaluations=result.network_evaluations * draws,
        settings=result.settings | {"levels": levels, "dequantization": dequantization, "draws": draws},
    )


def formula_bits(
    model: Model,
    images: Tensor,
    *,
    levels: int = 256,
    steps: int = 128,
    throws: int = 4,
    generator: torch.Generator,
    chunk: int = IMAGES_PER_CALL,
    dtype: torch.dtype = torch.float32,
) -> LogDensity:
    """−log₂ P(image)/N by the density formula: the ``variational`` bound of the reverse SDE.

    The rule is the trapezoid, since images are sharp and would need many nodes of the quadrature.

    Args:
        model: the score and its schedule, trained on images mapped by ``dequantization.to_unit``.
        images: (B, C, H, W) uint8, values below ``levels``, on the model's device.
        levels: the number of integer levels, 2 to 256.
        steps: T, times at equal distances in log-SNR.
        throws: draws of the noise at each time, in pairs: even, at least 4.
        generator: draws the noise.
        chunk: the most rows of one network call, at least 32.
        dtype: of the network's input.

    Returns:
        LogDensity in bits/dim, an ``upper`` bound of the ``sde`` in expectation, up to the error of the rule.

    Raises:
        InputError: for images as in `check_images`, or settings out of range.
    """
    check_images(images, levels)
    alpha, sigma = model.schedule.at(checked_start(model, None))
    table = reconstruction_table(levels, alpha, sigma).to(images.device)
    dims = images[0].numel()
    x = to_unit(images, levels, dtype)
    result = formula(model, x, steps=steps, rule="trapezoid", throws=throws, generator=generator, chunk=chunk)
    # the formula is the density of z/√(α² + σ²); that of z itself is larger by the volume of the scale
    log_prob = result.value - 0.5 * dims * math.log(alpha**2 + sigma**2)
    decoder = -table[images.long()].flatten(1).sum(1)
    total = log_prob + decoder + dims * Variational(levels, alpha, sigma).entropy
    return estimated(
        nats_to_bits_per_dim(total, dims),
        None if result.stderr is None else -nats_to_bits_per_dim(result.stderr, dims),
        kind="upper",
        density="sde",
        network_evaluations=result.network_evaluations,
        settings=result.settings | {"levels": levels, "dequantization": "variational"},
    )
