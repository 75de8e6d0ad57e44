r"""The density of a model's reverse SDE in one dimension, as the solution of its Fokker–Planck equation.

The reverse SDE starts from the prior at s_max, and s decreases: dx = (f x − g² s_θ) ds + g dW̄ with ds < 0. In the
increasing time τ = s_max − s it is the ordinary SDE dx = (g² s_θ − f x) dτ + g dW. Its density obeys
∂p/∂τ = −∂ₓ[(g² s_θ − f x) p] + ½ g² ∂ₓ²p, so with dτ = −ds

.. math:: \partial_s p = \partial_x[(g^2 s_\theta - f x)\, p] - \tfrac12 g^2\, \partial_x^2 p.

If s_θ = ∂ₓ log p, the first term contains g² ∂ₓ²p, and the equation becomes ∂_s p = −∂ₓ[f x p] + ½ g² ∂ₓ²p: the
marginals of the forward process solve it. As functions of the log-SNR λ, dλ = −(g²/σ²) ds, the coefficients are of
moderate size at both ends and have no jumps:

.. math:: \partial_\lambda p = -\partial_x J, \qquad J = \tfrac12 \sigma^2 (u\, p - \partial_x p), \qquad
          u = 2\,(s_\theta - (f / g^2)\, x).

The method is finite volumes: cells of width h with mean densities p_i. The flux between two cells is

.. math:: J_{i+1/2} = \frac{\sigma^2}{2h}\,\big(B(-q)\, B(-w)\, p_i - B(q)\, B(w)\, p_{i+1}\big), \qquad
          B(z) = \frac{z}{e^z - 1}, \qquad q = h s_\theta, \qquad w = h\,(u - s_\theta),

the flux of Scharfetter and Gummel (1969) for p e^{−s_θ x}. It is exact for cell means of e^{s_θ x}, to which p is
close, and zero for e^{u x}. The flux through the ends of the grid is zero, and what leaves a cell enters the next one,
so mass is conserved. Time steps are those of Crank and Nicolson, at equal distances in arctan e^{−λ/4}: finest in λ
around 0, where the density changes most. The error is of second order in the width and in the step, also for a prior
with jumps. Far tails, where a density falls by many orders of magnitude within the distance of diffusion in one step,
are not resolved.

The probability-flow ODE is not solved here, since any such scheme would smooth its density: `density.flow` is exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import RectBivariateSpline
from scipy.linalg import solve_banded
from scipy.special import exprel
from torch import Tensor

from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.process.model import Model
from diffusion_density.process.schedules import Schedule

LEAST_DENSITY = 1e-14  # the steps do not resolve smaller densities
MOST_MASS_OUTSIDE = 1e-8  # of the prior: if the grid cuts off more, the solution oscillates


@dataclass(frozen=True)
class Marginals:
    """The density of a reverse SDE at every time, on a grid.

    Attributes:
        schedule: of the model.
        times: (n,) times s from data to noise.
        x: (cells,) centres of the cells.
        log_prob: (n, cells) log density in nats, double precision; at least −32, since less is not resolved.
    """

    schedule: Schedule
    times: Float[Tensor, " n"]
    x: Float[Tensor, " cells"]
    log_prob: Float[Tensor, "n cells"]

    def log_prob_at(self, x: Float[Tensor, "*shape"], s: Tensor | float) -> Float[Tensor, "*shape"]:
        """log p_s(x) in nats at one time, or at times of the shape of x, by a cubic spline in x and log-SNR.

        Beyond the grid and the times the value is the one at their end.
        """
        return self._on(self._spline, x, s)

    def score(self, x: Float[Tensor, "*shape"], s: Tensor | float) -> Float[Tensor, "*shape"]:
        """∂ₓ log p_s(x), the derivative of the same spline."""
        return self._on(self._slope, x, s)

    def _on(self, spline: Callable[..., np.ndarray], x: Tensor, s: Tensor | float) -> Tensor:
        gamma = -self.schedule.log_snr(torch.as_tensor(s, dtype=torch.float64))
        return torch.from_numpy(spline(gamma.expand(x.shape).numpy(), x.double().numpy(), grid=False))

    @cached_property
    def _spline(self) -> RectBivariateSpline:
        gamma = -self.schedule.log_snr(self.times)
        return RectBivariateSpline(gamma.numpy(), self.x.numpy(), self.log_prob.numpy())

    @cached_property
    def _slope(self) -> Callable[..., np.ndarray]:
        return self._spline.partial_derivative(0, 1)


def marginals(
    model: Model, *, cells: int = 1000, steps: int = 1000, span: tuple[float, float] = (-6.0, 6.0)
) -> Marginals:
    """The marginals of a one-dimensional model's reverse SDE, from its prior at s_max to s_start.

    The score is called in double precision on the CPU, once per time, with x of shape (cells − 1, 1).

    Args:
        model: the score, its schedule and its prior, over x of shape (B, 1).
        cells: of equal width.
        steps: in log-SNR, finest around 0.
        span: the ends of the grid, with no flux through them. The prior is normalised on it.

    Returns:
        The log density in nats at steps + 1 times.

    Raises:
        InputError: for settings out of range, or a span that leaves out more than 1e-8 of the prior.
        NumericalError: if the score is not finite on the grid.
    """
    low, high = span
    if cells < 4 or steps < 4:
        raise InputError(f"marginals: need at least 4 cells and 4 steps, got {cells} and {steps}")
    if not -math.inf < low < high < math.inf:
        raise InputError(f"marginals: span must be two increasing numbers, got {low} and {high}")
    schedule = model.schedule
    width = (high - low) / cells
    x = low + width * (torch.arange(cells, dtype=torch.float64) + 0.5)
    ends = schedule.log_snr(torch.tensor([schedule.s_start, schedule.s_max], dtype=torch.float64))
    first, last = (-0.25 * ends).exp().atan().tolist()
    log_snr = -4 * torch.linspace(first, last, steps + 1, dtype=torch.float64).tan().log()
    times = schedule.inverse(log_snr).clamp(schedule.s_start, schedule.s_max)
    rises = -log_snr.diff().numpy()
    density = np.empty((steps + 1, cells))  # means of cells
    with torch.inference_mode():
        density[-1] = _on_grid(model, x, width)
        explicit = _generator(model, x, times[-1], width)
        for k in range(steps, 0, -1):
            implicit = _generator(model, x, times[k - 1], width)
            half = 0.5 * rises[k - 1]
            right = density[k] + half * _product(explicit, density[k])
            left = -half * implicit
            left[1] += 1
            density[k - 1] = solve_banded((1, 1), left, right, overwrite_ab=True, overwrite_b=True, check_finite=False)
            explicit = implicit
    density -= _excess(density)
    return Marginals(schedule, times, x, torch.from_numpy(density).clamp(min=LEAST_DENSITY).log())


def _on_grid(model: Model, x: Tensor, width: float) -> Float[np.ndarray, " cells"]:
    """The means of the prior over the cells, with mass one."""
    prior = model.prior.log_prob(x[:, None]).double().exp().numpy()
    mass = prior.sum() * width
    if not abs(mass - 1) < MOST_MASS_OUTSIDE:
        raise InputError(f"marginals: the grid holds {mass:.10g} of the prior's mass: widen the span or add cells")
    return (prior + _excess(prior)) / mass


def _excess(p: Float[np.ndarray, "*n cells"]) -> Float[np.ndarray, "*n cells"]:
    """The mean of each cell minus the value at its centre, to fourth order; the sum over cells is zero."""
    return np.diff(p, n=2, axis=-1, prepend=p[..., :1], append=p[..., -1:]) / 24


def _generator(model: Model, x: Tensor, s: Tensor, width: float) -> Float[np.ndarray, "3 cells"]:
    """(3, cells) the tridiagonal matrix of −∂ₓ J at one time, in the layout of `solve_banded`: its columns sum to 0."""
    faces = 0.5 * (x[1:] + x[:-1])
    score = model.score(faces[:, None], s)[:, 0]
    if not bool(score.isfinite().all()):
        raise NumericalError(f"marginals: the score is not finite on the grid at s = {s.item():.6g}")
    ratio = model.schedule.drift(s) / model.schedule.diffusion(s)
    q, w = (width * score).numpy(), (width * (score - 2 * ratio * faces)).numpy()
    rate = 0.5 * model.schedule.sigma(s).item() ** 2 / width**2
    bands = np.zeros((3, len(x)))
    down, fall = 1 / exprel(q), 1 / exprel(w)
    bands[0, 1:] = rate * down * fall
    bands[2, :-1] = rate * (down + q) * (fall + w)  # B(−z) = B(z) + z
    bands[1] = -bands[0] - bands[2]
    return bands


def _product(bands: Float[np.ndarray, "3 cells"], p: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """The tridiagonal matrix times a vector."""
    product = bands[1] * p
    product[:-1] += bands[0, 1:] * p[1:]
    product[1:] += bands[2, :-1] * p[:-1]
    return product
