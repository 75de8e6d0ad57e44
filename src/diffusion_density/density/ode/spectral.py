r"""log p of a flow by spectral sweeps: the exact divergence at the few nodes of a Gauss rule.

The divergence costs D times as much as the field, but it is only integrated along the trajectory. So it is computed
only at the nodes of a spectral quadrature, in the second sweep over the trajectory (:mod:`.trajectory`). All points
share their times, so a network embeds each time once. Points with an error above their tolerance continue together on
a grid with 1.5 times as many nodes, where one sweep corrects their trajectories. The result of a point does not depend
on other points.

The error estimate has two parts: the effect of the trajectory's defect, as a sum of absolute values, so that terms of
opposite sign do not hide a poor curve; and the error of the quadrature, estimated from the Legendre coefficients a_k of
the divergence. M nodes are exact up to the degree 2 M − 1. With τ the largest of the last three coefficients and ρ
their ratio to those at M/2, a_{2M} is τρ² if they decay geometrically: this is the estimate, with ρ² at least 1/(4 M).
On mixtures and networks it is mostly far above the error.

A rough field, for example of a network with much noise in it, is no polynomial of a low degree. Points for which the
finest grid gives no answer are left to a method of steps.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffusion_density.density.ode.flow_time import Stations, stations
from diffusion_density.density.ode.gauss_grid import grid, resample
from diffusion_density.density.ode.trajectory import Sweep, sweep
from diffusion_density.process.model import Model

POINTS_AT_ONCE = 2048
NUMBERS_AT_ONCE = 1 << 21  # of the field of these points, in double precision; several such arrays are in memory
GRID_GROWTH = 1.5  # nodes of the next grid over those of the last one
MOST_GRIDS = 4


class Spectral:
    """The results for B points.

    Attributes:
        value: (B,) log p in nats, NaN where it was not found.
        found: (B,) whether it was found.
        spent: (B,) network evaluations of each point.
        calls: of the network, for all points together.
    """

    value: Float[Tensor, " b"]
    found: Bool[Tensor, " b"]
    spent: Int[Tensor, " b"]

    def __init__(self, model: Model, x: Float[Tensor, "b d"], start: float, max_nodes: int) -> None:
        """The points (B, D) at time ``start``; no grid has more nodes than ``max_nodes``."""
        self.model, self.x, self.start, self.max_nodes = model, x, start, max_nodes
        self.value = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
        self.found = torch.zeros_like(self.value, dtype=torch.bool)
        self.spent = torch.zeros_like(self.value, dtype=torch.long)
        self.calls = 0
        self._stations: dict[int, Stations] = {}

    def solve(self, rtol: float, atol: float) -> "Spectral":
        """Solve for all points, each up to an estimated error of atol + rtol |log p|."""
        nodes = first_nodes(max(rtol, atol))
        if nodes <= self.max_nodes:
            size = max(1, min(POINTS_AT_ONCE, NUMBERS_AT_ONCE // (nodes * self.x.shape[1])))
            points = torch.arange(len(self.x), device=self.x.device)
            threads = torch.get_num_threads() if self.x.device.type == "cpu" else 1
            parts = points.tensor_split(max(math.ceil(len(points) / size), min(threads, len(points))))
            grids = partial(self._grids, nodes=nodes, rtol=rtol, atol=atol)
            if threads == 1 or len(parts) == 1:
                self.calls += sum(map(grids, parts))
            else:  # one thread per part: its numbers stay in the cache of its core, and it never waits for others
                with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                    self.calls += sum(pool.map(grids, parts))
        return self

    @torch.no_grad()  # each thread has its own mode
    def _grids(self, rows: Tensor, nodes: int, rtol: float, atol: float) -> int:
        """Go from grid to grid until all these points have a value or there are no more grids; returns the calls."""
        model, x = self._of(rows)
        first = model.flow_drift(x, torch.tensor(self.start, dtype=torch.float64).to(x)).double()
        self.spent[rows] += 1
        calls = 1 + nodes
        field = first.new_zeros(nodes + 1, *first.shape)
        field = self._sweep(rows, first, field, last=False).field
        for _ in range(MOST_GRIDS):
            swept = self._sweep(rows, first, field, last=True)
            calls += nodes
            done = self._accept(rows, swept, rtol, atol)
            left = (~done & ~swept.failed).nonzero()[:, 0]
            finer = math.ceil(GRID_GROWTH * nodes)
            if not len(left) or finer > self.max_nodes:
                return calls
            field = torch.einsum("mn,nbd->mbd", resample(nodes, finer).to(left.device), swept.field[:, left])
            rows, first, nodes = rows[left], first[left], finer
        return calls

    def _of(self, rows: Tensor) -> tuple[Model, Tensor]:
        if len(rows) == len(self.x):
            return self.model, self.x
        return self.model.at_rows(rows, len(self.x)), self.x[rows]

    def _sweep(self, rows: Tensor, first: Tensor, before: Tensor, last: bool) -> Sweep:
        model, x = self._of(rows)
        nodes = len(before) - 1
        if nodes not in self._stations:
            self._stations[nodes] = stations(model.schedule, self.start, grid(nodes).times, x.dtype)
        self.spent[rows] += nodes * (1 + (x.shape[1] if last else 0))
        return sweep(model, x, self._stations[nodes], first, before, divergence=last)

    def _accept(self, rows: Tensor, swept: Sweep, rtol: float, atol: float) -> Tensor:
        """Keep the values of the points within their tolerance, and return which points these are."""
        assert swept.divergence is not None
        log_det = grid(len(swept.divergence)).weights.to(self.x.device) @ swept.divergence
        value = self.model.prior.log_prob(swept.end).double() + log_det + swept.defect
        error = swept.error + quadrature_error(swept.divergence)
        good = (error <= atol + rtol * value.abs()) & ~swept.failed
        self.value[rows[good]], self.found[rows[good]] = value[good], True
        return good


def first_nodes(tolerance: float) -> int:
    """The nodes of the first grid: with spectral accuracy the number of digits is proportional to the nodes."""
    return max(6, round(6 - 2 * math.log10(tolerance)))


def quadrature_error(values: Float[Tensor, "m b"]) -> Float[Tensor, " b"]:
    """An estimate of the error of Gauss's rule for functions known at its nodes, by their Legendre coefficients."""
    nodes = len(values)
    sizes = (grid(nodes).coefficients.to(values.device) @ values).abs()
    last, middle = sizes[-3:].amax(0), sizes[nodes // 2 - 1 : nodes // 2 + 2].amax(0)
    ratio = torch.where(middle > 0, last / middle, 0.0).clamp(max=1.0)
    return last * ratio.square().clamp(min=1 / (4 * nodes))
