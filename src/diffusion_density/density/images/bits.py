r"""Bits per dimension of images of integers: the discrete likelihood of a diffusion model (Zheng et al. 2023).

An image k of N integers gets its probability from the density p of the model at the data end, by a distribution q(z|k)
around the image (:mod:`diffusion_density.density.images.dequantization`):

.. math:: \text{bits/dim} = -\frac{\log_2 P(k)}{N}, \qquad
          \log P(k) \ge E_q\Big[\log\frac1K \sum_{j \le K} p(z_j)\, \frac{P(k|z_j)}{q(z_j|k)}\Big]
          \ge E_q[\log p(z) + \log P(k|z)] + H(q).

So the value is an upper bound in expectation, of one of two densities:

* ``flow``: log p of the probability-flow ODE, solved from z (:func:`diffusion_density.density.ode.flow.flow`);
* ``bound``: the variational bound of the reverse SDE in three terms (:mod:`diffusion_density.density.images.bound`).

Images are scored in chunks. All random numbers of one image are consecutive in the generator's stream, so an image gets
the same draws in any batch.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.images.bound import IMAGES_PER_CALL, bound_terms, check_images, checked_start
from diffusion_density.density.images.dequantization import Dequantization, Draws, Scheme, nats_to_bits_per_dim
from diffusion_density.density.images.dequantization import dequantization as scheme_named
from diffusion_density.density.ode.flow import flow
from diffusion_density.density.result import LogDensity, estimated
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model


def bits_per_dim(
    model: Model,
    images: Tensor,
    *,
    levels: int = 256,
    dequantization: Scheme | None = None,
    estimator: Literal["flow", "bound"] = "flow",
    generator: torch.Generator,
    **settings: Any,  # noqa: ANN401
) -> LogDensity:
    """−log₂ P(image)/N of images of integers, N = C·H·W; smaller is more likely.

    Args:
        model: the score and its schedule, trained on images mapped to (−1, 1) by ``dequantization.to_unit``.
        images: (B, C, H, W) uint8, values below ``levels``, on the model's device.
        levels: the number of integer levels, 2 to 256.
        dequantization: of the flow: ``truncated_normal`` (default), ``uniform`` or ``variational``. The bound is
            ``variational`` by definition.
        estimator: ``flow``, the density of the ODE; or ``bound``, the variational bound of the SDE.
        generator: draws everything that is random.
        settings: further settings of :func:`flow_bits` or of :func:`bound_bits`.

    Returns:
        LogDensity in bits/dim, see there.

    Raises:
        InputError: for images that are not uint8 (B, C, H, W) or have values beyond the levels; for settings that are
            out of range, or that the estimator does not have.
    """
    if estimator not in ("flow", "bound"):
        raise InputError(f"bits_per_dim: estimator is 'flow' or 'bound', not {estimator!r}")
    estimate = flow_bits if estimator == "flow" else bound_bits
    if unknown := sorted(settings.keys() - signature(estimate).parameters.keys()):
        raise InputError(f"bits_per_dim: estimator {estimator!r} has no setting {', '.join(unknown)}")
    if estimator == "flow":
        settings["dequantization"] = dequantization or "truncated_normal"
    elif dequantization not in (None, "variational"):
        raise InputError(f"bits_per_dim: the bound is variational, it has no {dequantization!r} dequantization")
    return estimate(model, images, levels=levels, generator=generator, **settings)


@dataclass(frozen=True)
class _Plan:
    """How the flow scores images.

    Attributes:
        scheme: of the dequantization.
        draws: K, versions of each image.
        probes: of each version; 0 for the exact divergence.
        weighted: whether the K draws are importance weighted. They share their probes then.
        chunk: the most rows of one network call.
        dtype: of z.
        options: of `density.ode.flow.flow`.
    """

    scheme: Dequantization
    draws: int
    probes: int
    weighted: bool
    chunk: int
    dtype: torch.dtype
    options: dict[str, Any]


def flow_bits(
    model: Model,
    images: Tensor,
    *,
    levels: int = 256,
    dequantization: Scheme = "truncated_normal",
    draws: int = 1,
    importance_weighted: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: Literal["hutchinson", "exact"] = "hutchinson",
    probes: int = 1,
    start: float | None = None,
    chunk: int = IMAGES_PER_CALL,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator,
) -> LogDensity:
    """−log₂ P(image)/N by the density of the probability-flow ODE.

    Args:
        model: as in :func:`bits_per_dim`.
        images: as in :func:`bits_per_dim`.
        levels: as in :func:`bits_per_dim`.
        dequantization: ``truncated_normal``, ``uniform`` or ``variational``.
        draws: K, dequantized versions of each image.
        importance_weighted: the logarithm of the mean over the K draws, instead of the mean of logarithms. The draws
            of an image then share their probes. Noise of the divergence inside the logarithm makes the bound
            approximate; with ``divergence="exact"`` it is a bound.
        rtol: relative tolerance of the solver, for z and for log p over N. Default: 1e-5.
        atol: absolute tolerance, likewise.
        divergence: ``hutchinson`` or ``exact`` (N vector-Jacobian products per call).
        probes: Rademacher probes of each draw, with ``hutchinson``.
        start: the time of z, ``schedule.s_start`` by default. ``uniform`` is accurate only at a later one: s at
            γ = ``dequantization.start_gamma(levels, "uniform")``.
        chunk: the most rows of one network call.
        dtype: of z, and so of the network's input and of the solver.
        generator: draws the versions and the probes.

    Returns:
        LogDensity in bits/dim, an ``upper`` bound in expectation, of the ``flow``. The standard error is that of draws
        and probes together. It is None where it is unknown: for one draw, and for weighted draws that share one probe.
        ``network_evaluations`` are those of one image, a mean over chunks rounded up; ``settings["total_evaluations"]``
        counts the passes of all rows of all images, and ``settings["solver_calls"]`` lists the calls of the field, one
        number per solve. An image of which a draw failed is NaN with its status.

    Raises:
        InputError: as :func:`bits_per_dim`.
    """
    check_images(images, levels)
    if draws < 1 or probes < 1 or chunk < 1:
        raise InputError(f"bits_per_dim: draws, probes and chunk must be at least 1, got {draws}, {probes} and {chunk}")
    first = checked_start(model, start)
    plan = _Plan(
        scheme=scheme_named(dequantization, levels, *model.schedule.at(first)),
        draws=draws,
        probes=probes if divergence == "hutchinson" else 0,
        weighted=importance_weighted,
        chunk=chunk,
        dtype=dtype,
        options={"rtol": rtol, "atol": atol, "divergence": divergence, "start": first, "per_dimension": True},
    )
    parts = [_score(their, part, plan, generator) for their, part in model.split(images, max(1, chunk // draws))]
    values, stderrs, statuses, calls, totals = zip(*parts, strict=True)
    known = [stderr for stderr in stderrs if stderr is not None]
    total = sum(totals)
    return LogDensity(
        value=torch.cat(values),
        stderr=torch.cat(known) if known else None,
        kind="upper",
        density="flow",
        network_evaluations=-(-total // len(images)),
        settings={
            "estimator": "flow",
            "levels": levels,
            "dequantization": dequantization,
            "draws": draws,
            "importance_weighted": importance_weighted,
            **plan.options,
            "probes": plan.probes,
            "chunk": chunk,
            "solver_calls": [call for part in calls for call in part],
            "total_evaluations": total,
        },
        status=torch.cat(statuses),
    )


def _score(
    model: Model, images: Tensor, plan: _Plan, generator: torch.Generator
) -> tuple[Tensor, Tensor | None, Tensor, list[int], int]:
    """Bits/dim, standard errors and status of some images; calls of the field per solve, and passes of all rows."""
    dims = images[0].numel()
    versions, eta = _draw(images, plan, generator)
    rows = versions.z.flatten(0, 1)
    etas = eta.split(plan.chunk) if eta is not None else [1] * len(rows.split(plan.chunk))
    results = [flow(model, z, probes=p, **plan.options) for z, p in zip(rows.split(plan.chunk), etas, strict=True)]
    shape = (len(images), plan.draws)
    log_density = torch.cat([result.value for result in results]).reshape(shape)
    value, stderr = versions.importance_weighted(log_density) if plan.weighted else versions.average(log_density)
    if plan.weighted and plan.probes and stderr is not None:  # shared probes: their error is common to the draws
        errors = [result.stderr for result in results if result.stderr is not None]
        weights = (log_density + versions.log_weight).softmax(1)
        stderr = torch.hypot(stderr, (weights * torch.cat(errors).reshape(shape)).sum(1)) if errors else None
    status = torch.cat([result.status for result in results if result.status is not None])
    passes = [result.network_evaluations * len(result.value) for result in results]
    return (
        nats_to_bits_per_dim(value, dims),
        None if stderr is None else -nats_to_bits_per_dim(stderr, dims),
        status.reshape(shape).amax(1),
        [result.settings["solver_calls"] for result in results],
        sum(passes),
    )


def _draw(
    images: Tensor, plan: _Plan, generator: torch.Generator
) -> tuple[Draws, Float[Tensor, "rows k c h w"] | None]:
    """The versions of each image and the probes of each version, image after image in the generator's stream."""
    versions, etas = [], []
    for image in images.split(1):
        versions.append(plan.scheme.draw(image, plan.draws, generator=generator, dtype=plan.dtype))
        shape = (1 if plan.weighted else plan.draws, plan.probes, *image.shape[1:])
        signs = torch.randint(0, 2, shape, generator=generator, device=generator.device)
        etas.append((signs.to(image.device, plan.dtype) * 2 - 1).expand(plan.draws, *shape[1:]))
    together = Draws(
        *(torch.cat([getattr(v, name) for v in versions]) for name in ("z", "log_weight", "mean_log_weight"))
    )
    return together, torch.cat(etas) if plan.probes else None


def bound_bits(
    model: Model,
    images: Tensor,
    *,
    levels: int = 256,
    throws: int = 16,
    start: float | None = None,
    chunk: int = IMAGES_PER_CALL,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator,
) -> LogDensity:
    """−log₂ P(image)/N by the variational bound of the reverse SDE, the sum of its three terms.

    Args:
        model: as in :func:`bits_per_dim`.
        images: as in :func:`bits_per_dim`.
        levels: as in :func:`bits_per_dim`.
        throws: n, draws of (time, noise) for each image; as many network evaluations.
        start: the time of the data end, ``schedule.s_start`` by default.
        chunk: the most rows of one network call.
        dtype: of the network's input.
        generator: draws the throws.

    Returns:
        LogDensity in bits/dim, an ``upper`` bound in expectation, of the ``sde``, with the standard error of its
        throws; None for one throw.

    Raises:
        InputError: as :func:`bits_per_dim`.
    """
    options: dict[str, Any] = {"levels": levels, "throws": throws, "start": start, "chunk": chunk}
    terms = bound_terms(model, images, generator=generator, dtype=dtype, **options)
    return estimated(
        terms.total,
        terms.stderr,
        kind="upper",
        density="sde",
        network_evaluations=throws,
        settings=options
        | {
            "estimator": "bound",
            "dequantization": "variational",
            "start": checked_start(model, start),
            "total_evaluations": throws * len(images),
        },
    )
