r"""The diffusion classifier: the posterior of a class from one model per class, by Bayes' rule.

.. math:: p(c \mid x) = \mathrm{softmax}_c\big(\log p(c) + \widehat{\log p}(x \mid c)\big),

where one estimator gives each log density, by default the density formula (Li and Yan 2024, section 4.3; Li et al.
2023, "Your diffusion model is secretly a zero-shot classifier"). By default all classes use the same random draws: the
error that they share cancels in the differences of log densities, which decide.
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
        models: one per class.
        x: (B, *) points.
        log_prior: (C,) log p(c), up to a constant.
        estimator: of log p(x | c), called as ``estimator(model, x, generator=generator)``; by default the density
            formula on 32 quadrature nodes with 16 throws each.
        seed: of the noise.
        common: whether all classes use the same noise.

    Returns:
        The log posterior in double precision; NaN for points where the score of a class was not finite.

    Raises:
        InputError: unless there is at least one class and a prior for each; and as the estimator does.
    """
    if not models or len(models) != len(log_prior):
        raise InputError(f"class posterior: one log prior per model expected, got {len(log_prior)} for {len(models)}")
    generator = torch.Generator(x.device).manual_seed(seed)
    log_probs = []
    for model in models:
        if common:
            generator.manual_seed(seed)
        log_probs.append(estimator(model, x, generator=generator).value)
    return (log_prior.to(log_probs[0]) + torch.stack(log_probs, dim=1)).log_softmax(1)
