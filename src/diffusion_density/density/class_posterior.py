r"""The diffusion classifier: the posterior of a class from one model a class, by Bayes' rule (paper B, section 4.3).

.. math:: p(c \mid x) = \mathrm{softmax}_c\big(\log p(c) + \widehat{\log p}(x \mid c)\big),

each log density by one estimator, the density formula if no other is wanted. What has no part in the model is common to
all classes. So is the noise, if wanted: with the same draws for each class, the error that they share cancels in the
differences, which decide.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.density.formula import formula
from diffusion_density.density.result import LogDensity
from diffusion_density.machine.errors import InputError
from diffusion_density.process.model import Model

FORMULA = partial(formula, rule="quadrature", steps=32, throws=16)


def class_log_posterior(
    models: Sequence[Model],
    x: Float[Tensor, "b *event"],
    log_prior: Float[Tensor, " c"],
    *,
    estimator: Callable[..., LogDensity] = FORMULA,
    seed: int,
    common: bool = True,
) -> Float[Tensor, "b c"]:
    """(B, C) log p(c | x) in nats of C classes.

    Args:
        models: one a class.
        x: (B, *) points.
        log_prior: (C,) log p(c), up to a constant.
        estimator: of log p(x | c), called as ``estimator(model, x, generator=generator)``; the density formula on 32
            quadrature nodes with 16 throws each by default.
        seed: of the noise.
        common: whether all classes see the same noise, or each its own.

    Returns:
        The log posterior in double precision; NaN for points where a class's score was not finite.

    Raises:
        InputError: unless there is a prior for each of at least one class; and what the estimator raises.
    """
    if not models or len(models) != len(log_prior):
        raise InputError(f"class posterior: one log prior a model expected, got {len(log_prior)} for {len(models)}")
    generator = torch.Generator(x.device).manual_seed(seed)
    log_probs = []
    for model in models:
        if common:
            generator.manual_seed(seed)
        log_probs.append(estimator(model, x, generator=generator).value)
    return (log_prior.to(log_probs[0]) + torch.stack(log_probs, dim=1)).log_softmax(1)
