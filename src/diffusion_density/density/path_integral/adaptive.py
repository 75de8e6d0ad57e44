r"""Rounds of doubled throws for the points whose standard error is still above a target.

A round of n_k throws gives an unbiased value v_k with the standard error e_k, independent of the other rounds. They are
combined with weights that do not depend on the results,

.. math:: v = \frac{\sum_k n_k v_k}{\sum_k n_k}, \qquad e = \frac{(\sum_k n_k^2 e_k^2)^{1/2}}{\sum_k n_k} .

A point stops when e is small enough. This is more likely if e is too small by chance, so intervals of points that
stopped early have a coverage slightly below their level.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Round = Callable[[Int[Tensor, " a"], int], tuple[Float[Tensor, " a"], Float[Tensor, " a"]]]


def rounds(
    estimate: Round, points: int, throws: int, target_stderr: float, max_throws: int, device: torch.device
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Int[Tensor, " b"]]:
    """Values, standard errors and throws spent of B points.

    Args:
        estimate: from indices of points and a number of throws per point to values and standard errors in nats.
        points: B.
        throws: of the first round; each has twice as many as the one before.
        target_stderr: a point stops at this standard error.
        max_throws: the most throws per point in all rounds.
        device: of the results.
    """
    total, variance = (torch.zeros(points, dtype=torch.float64, device=device) for _ in range(2))
    spent = torch.zeros(points, dtype=torch.long, device=device)
    left = torch.arange(points, device=device)
    while len(left):
        value, stderr = estimate(left, throws)
        total[left] += throws * value
        variance[left] += (throws * stderr).square()
        spent[left] += throws
        throws *= 2
        missed = variance.sqrt() / spent > target_stderr  # not where the score was not finite
        left = (missed & (spent + throws <= max_throws)).nonzero()[:, 0]
    return total / spent, variance.sqrt() / spent, spent
