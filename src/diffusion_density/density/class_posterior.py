r"""The diffusion classifier: the posterior of a class from one model a class, by Bayes' rule (paper B, section 4.3).

.. math:: p(c \mid x) = \mathrm{softmax}_c\big(\log p(c) + \widehat{\log p}(x \mid c)\big),

each log density by the formula, whose terms without the model are common to all classes. So is the noise, if wanted:
with the same draws for each class, the error that they share cancels in the differences, which decide.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion_density.batching import ROWS
from diffusion_density.density.formula import Rule, formula
from diffusion_density.errors import InputError
from diffusion_density.model import Model


def class_log_posterior(
    models: Sequence[Model],
    x: Float[Tensor, "b *event"],
    log_prior: Float[Tensor, " c"],
    *,
    steps: int = 32,
    rule: Rule = "quadrature",
    throws: int = 16,
    seed: int,
    common: bool = True,
    chunk: int = ROWS,
) -> Float[Tensor, "b c"]:
    """(B, C) log p(c | x) in nats of C classes by the density formula.

    Args:
        models: one a class.
        x: (B, *) points.
        log_prior: (C,) log p(c), up to a constant.
        steps: as in :func:`formula`.
        rule: as in :func:`formula`.
        throws: draws of the noise at each time for each point and class.
        seed: of the noise.
        common: whether all classes see the same noise, or each its own.
        chunk: the most rows of one network call.

    Returns:
        The log posterior in double precision; NaN for points where a class's score was not finite.

    Raises:
        InputError: unless there is a prior for each of at least one class; for points and settings as in
            :func:`formula`.
    """
    if not models or len(models) != len(log_prior):
        raise InputError(f"class posterior: one log prior a model expected, got {len(log_prior)} for {len(models)}")
    generator = torch.Generator(x.device).manual_seed(seed)
    log_probs = []
    for model in models:
        if common:
            generator.manual_seed(seed)
        found = formula(model, x, steps=steps, rule=rule, throws=throws, generator=generator, chunk=chunk)
        log_probs.append(found.value)
    return (log_prior.to(log_probs[0]) + torch.stack(log_probs, dim=1)).log_softmax(1)
