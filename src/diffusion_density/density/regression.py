r"""Control variates by regression: what is explained of terms by features of known mean is taken out of their mean.

Terms t_i with features f_i of expectation zero have the same expectation as t_i − β·f_i for every β that does not
depend on them. Here terms come in R independent groups, and the β of a group is the ridge regression

.. math:: \beta_r = \Big(\sum_{i \notin r} f_i f_i^T + \rho n I\Big)^{-1} \sum_{i \notin r} f_i (t_i - \bar t),

of the *other* groups: the mean of every group is unbiased (cross-fitting; Glynn and Szechtman, "Some new perspectives
on the method of control variates", 2002, treat the regression itself). The groups share each other's fits, hence the
means of two groups are uncorrelated to first order only; the tests measure how far their intervals cover.
"""

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-3  # ρ


def group_means(terms: Float[Tensor, "b r n"], features: Float[Tensor, "b r n k"]) -> Float[Tensor, "b r"]:
    """The mean of each group's terms less what the other groups' regression on the features explains.

    Args:
        terms: (B, R, n) R independent groups of n terms for each of B problems.
        features: (B, R, n, K) numbers of expectation zero that go with them; K may be 0.
    """
    if not features.shape[-1]:
        return terms.mean(2)
    bordered = torch.cat([torch.ones_like(features[..., :1]), features], dim=-1)  # the constant takes the mean t̄
    gram, moments = bordered.mT @ bordered, bordered.mT @ terms[..., None]
    others, wanted = (part.sum(1, keepdim=True) - part for part in (gram, moments))
    ridge = RIDGE * terms[0].numel() * torch.eye(bordered.shape[-1], dtype=terms.dtype, device=terms.device)
    ridge[0, 0] = 0.0
    beta = torch.linalg.solve(others + ridge, wanted)[..., 1:, :]
    return (terms - (features @ beta)[..., 0]).mean(2)
