r"""Bits per dimension of real images: the discrete likelihood of a diffusion model (paper D, sections 2 and 4).

An image k of N integers gets its probability from the density p of the model at the data end, by way of a law q(z|k)
around the image (:mod:`diffusion_density.density.images.dequantization`):

.. math:: \text{bits/dim} = -\frac{\log_2 P(k)}{N}, \qquad
          \log P(k) \ge E_q\Big[\log\frac1K \sum_{j \le K} p(z_j)\, \frac{P(k|z_j)}{q(z_j|k)}\Big]
          \ge E_q[\log p(z) + \log P(k|z)] + H(q).

The value is thus an upper bound in expectation, of one of two densities:

* ``flow``: log p of the probability-flow ODE, solved from z (:func:`diffusion_density.density.ode.flow`). In γ = −λ the
  schedules of the paper are linear in time, so the solver's time is γ;
* ``bound``: the reverse SDE's variational bound in three terms (:mod:`diffusion_density.density.images.bound`).

Images are scored in chunks, each image once. All that is random for one image is consecutive in the generator's stream,
so an image gets the same draws in any batch.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.images.bound import ROWS, bound_terms, check_images, checked_start
from diffusion_density.density.images.dequantization import Dequantization, Draws, Scheme
from diffusion_density.density.images.dequantization import bits_per_dim as to_bits
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
    draws: int = 1,
    importance_weighted: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: Literal["hutchinson", "exact"] = "hutchinson",
    probes: int = 1,
    throws: int = 16,
    start: float | None = None,
    chunk: int = ROWS,
    dtype: torch.dtype = torch.float32,
) -> LogDensity:
    """−log₂ P(image)/N of integer images, N = C·H·W; smaller is more likely.

    Args:
        model: the score and its schedule, trained on images mapped to (−1, 1) by ``dequantization.to_unit``.
        images: (B, C, H, W) uint8, values below ``levels``, on the model's device.
        levels: the number of integer levels, 2 to 256.
        dequantization: of ``flow``: ``truncated_normal`` (default), ``uniform`` or ``variational``. The ``bound`` is
            ``variational`` by its nature.
        estimator: ``flow``, the density of the ODE; or ``bound``, the variational bound of the SDE.
        generator: draws everything that is random.
        draws: of ``flow``: K, dequantized versions of each image.
        importance_weighted: of ``flow``: log of the mean over the K draws, instead of the mean of logs. The draws of an
            image then share their probes. Noise of the divergence inside the logarithm makes the bound approximate:
            the promise holds with ``divergence="exact"``.
        rtol: relative tolerance of the solver, for z and for log p over N.
        atol: absolute tolerance, likewise.
        divergence: ``hutchinson`` or ``exact`` (N vector-Jacobian products a call).
        probes: Rademacher probes of each draw, with ``hutchinson``.
        throws: of ``bound``: draws of (time, noise) for each image.
        start: the time at which z lives, ``schedule.s_start`` by default. ``uniform`` is harmless only at a later one:
            s at γ = ``dequantization.start_gamma(levels, "uniform")``.
        chunk: the most rows of one network call.
        dtype: of z, and so of the network's input and of the solver.

    Returns:
        LogDensity in bits/dim, an ``upper`` bound (in expectation) of the ``flow`` or of the ``sde``. The standard
        error is that of draws and probes together, or of throws; None where it cannot be told: for one draw, and for
        weighted draws that share one probe. ``network_evaluations`` are those of one image, a mean over chunks rounded
        up; ``settings["total_evaluations"]`` counts the passes of all rows of all images, exactly, and
        ``settings["solver_calls"]`` holds the calls of the field, one number a solve. An image of which a draw failed
        is NaN with its status.

    Raises:
        InputError: for images that are not uint8 (B, C, H, W) or reach beyond the levels; for settings out of range.
    """
    check_images(images, levels)
    if chunk < 1:
        raise InputError(f"bits_per_dim: chunk must be at least 1, got {chunk}")
    if estimator == "bound":
        if dequantization not in (None, "variational"):
            raise InputError(f"bits_per_dim: the bound is variational, it has no {dequantization!r} dequantization")
        if draws != 1 or importance_weighted:
            raise InputError("bits_per_dim: the bound takes throws; draws and weights belong to estimator='flow'")
        return _bound(model, images, levels, throws, generator, start, chunk, dtype)
    if estimator != "flow":
        raise InputError(f"bits_per_dim: estimator is 'flow' or 'bound', not {estimator!r}")
    if draws < 1 or probes < 1:
        raise InputError(f"bits_per_dim: draws and probes must be at least 1, got {draws} and {probes}")
    first = checked_start(model, start)
    name = dequantization or "truncated_normal"
    scheme = scheme_named(name, levels, *model.schedule.at(first))
    drawn = probes if divergence == "hutchinson" else 0
    options: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "divergence": divergence,
        "start": first,
        "per_dimension": True,
    }
    parts = [
        _score(their, scheme, part, draws, drawn, importance_weighted, generator, chunk, dtype, options)
        for their, part in model.split(images, max(1, chunk // draws))
    ]
    values, stderrs, statuses, calls, totals = zip(*parts, strict=True)
    known = [stderr for stderr in stderrs if stderr is not None]
    total = sum(totals)
    return LogDensity(
        value=torch.cat(values),
        stderr=torch.cat(known) if known else None,
        kind="upper",
        of="flow",
        network_evaluations=-(-total // len(images)),
        settings={
            "estimator": "flow",
            "levels": levels,
            "dequantization": name,
            "draws": draws,
            "importance_weighted": importance_weighted,
            **options,
            "probes": drawn,
            "chunk": chunk,
            "solver_calls": [call for part in calls for call in part],
            "total_evaluations": total,
        },
        status=torch.cat(statuses),
    )


def _score(
    model: Model,
    scheme: Dequantization,
    images: Tensor,
    draws: int,
    probes: int,
    weighted: bool,
    generator: torch.Generator,
    chunk: int,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor | None, Tensor, list[int], int]:
    """Bits/dim, standard errors and status of some images; calls of the field by solve, and passes of all rows."""
    dims = images[0].numel()
    versions, eta = _draw(scheme, images, draws, probes, weighted, generator, dtype)
    rows = versions.z.flatten(0, 1)
    etas = eta.split(chunk) if eta is not None else [1] * len(rows.split(chunk))
    results = [flow(model, z, probes=p, **options) for z, p in zip(rows.split(chunk), etas, strict=True)]
    shape = (len(images), draws)
    log_density = torch.cat([result.value for result in results]).reshape(shape)
    value, stderr = versions.importance_weighted(log_density) if weighted else versions.average(log_density)
    if weighted and probes and stderr is not None:  # shared probes: their error is common to the draws
        errors = [result.stderr for result in results if result.stderr is not None]
        weights = (log_density + versions.log_weight).softmax(1)
        stderr = torch.hypot(stderr, (weights * torch.cat(errors).reshape(shape)).sum(1)) if errors else None
    status = torch.cat([result.status for result in results if result.status is not None])
    passes = [result.network_evaluations * len(result.value) for result in results]
    return (
        to_bits(value, dims),
        None if stderr is None else -to_bits(stderr, dims),
        status.reshape(shape).amax(1),
        [result.settings["solver_calls"] for result in results],
        sum(passes),
    )


def _draw(
    scheme: Dequantization,
    images: Tensor,
    draws: int,
    probes: int,
    shared: bool,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> tuple[Draws, Float[Tensor, "rows k c h w"] | None]:
    """The versions of each image and the probes of each version, image after image in the generator's stream."""
    versions, etas = [], []
    for image in images.split(1):
        versions.append(scheme.draw(image, draws, generator=generator, dtype=dtype))
        shape = (1 if shared else draws, probes, *image.shape[1:])
        signs = torch.randint(0, 2, shape, generator=generator, device=generator.device)
        etas.append((signs.to(image.device, dtype) * 2 - 1).expand(draws, *shape[1:]))
    together = Draws(
        *(torch.cat([getattr(v, name) for v in versions]) for name in ("z", "log_weight", "mean_log_weight"))
    )
    return together, torch.cat(etas) if probes else None


def _bound(
    model: Model,
    images: Tensor,
    levels: int,
    throws: int,
    generator: torch.Generator,
    start: float | None,
    chunk: int,
    dtype: torch.dtype,
) -> LogDensity:
    """The sum of the three terms as an estimate."""
    terms = bound_terms(
        model, images, levels=levels, throws=throws, generator=generator, start=start, chunk=chunk, dtype=dtype
    )
    return estimated(
        terms.total,
        terms.stderr,
        kind="upper",
        of="sde",
        network_evaluations=throws,
        settings={
            "estimator": "bound",
            "levels": levels,
            "dequantization": "variational",
            "throws": throws,
            "start": checked_start(model, start),
            "chunk": chunk,
            "total_evaluations": throws * len(images),
        },
    )
