r"""A multilayer perceptron on Fourier features of the point and of the time: one network, or a stack of many.

.. math:: h_1 = W_x \phi(x) + W_s \psi(s) + b, \quad h_{i+1} = W_i\, \mathrm{silu}(h_i) + b_i, \quad
          \mathrm{out} = W\, \mathrm{silu}(h) + b - \mathrm{skip}\cdot x .

The activation is smooth. So the divergence of the field is smooth too, and ODE solvers keep their order of convergence.
The time enters only the first layer; if all rows have the same time, its part is computed once. In a *stack* every
parameter has a first dimension of M members, and every product is a batched one, so that dozens of small networks cost
little more than one.

A network of p(x | c) is called as ``network(x, s, c)``; the C numbers of c are additional features.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from diffusion_density.machine.errors import InputError
from diffusion_density.networks.embeddings import FourierFeatures
from diffusion_density.process.batches import distinct_time


class MLP(nn.Module):
    """A network ``network(x, s)`` for points of D numbers.

    Args:
        dimension: D.
        widths: units of each hidden layer.
        frequencies: number of Fourier frequencies of the point; 0 for the point alone.
        time_frequencies: number of Fourier frequencies of the time.
        frequency_scale: standard deviation of all frequencies, in cycles per unit.
        skip: subtract the point from the output: score matching with this skip is entropy matching.
        context: C, the number of values that the density is conditional on.
        generator: draws weights and frequencies.
    """

    skip: Tensor

    def __init__(
        self,
        dimension: int,
        widths: Sequence[int],
        frequencies: int,
        time_frequencies: int,
        frequency_scale: float,
        skip: bool = False,
        context: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        # a buffer, so that networks with and without the skip can be stacked
        self.register_buffer("skip", torch.tensor(float(skip)))
        self.embed_point = FourierFeatures(dimension, frequencies, frequency_scale, generator)
        self.embed_time = FourierFeatures(1, time_frequencies, frequency_scale, generator)
        self.from_time = _Affine(self.embed_time.width, widths[0], generator)
        sizes = [self.embed_point.width + context, *widths, dimension]
        pairs = pairwise(sizes)
        self.layers = nn.ModuleList(_Affine(*pair, generator, bias=i > 0) for i, pair in enumerate(pairs))

    @classmethod
    def stack(cls, networks: Sequence["MLP"]) -> "MLP":
        """M networks of one shape as one network, called with x of shape (M, R, D) and s of shape (M, R).

        Raises:
            InputError: if their shapes differ.
        """
        states = [network.state_dict() for network in networks]
        if len({tuple((name, value.shape) for name, value in state.items()) for state in states}) != 1:
            raise InputError("networks of different shapes can't be stacked")
        return networks[0]._with({name: torch.stack([state[name] for state in states]) for name in states[0]})

    def members(self) -> list["MLP"]:
        """The networks of a stack, one by one."""
        return [self[index] for index in range(len(self.skip))]

    def __getitem__(self, index: int | slice | Tensor) -> "MLP":
        """One network of a stack, or a smaller stack, with weights of its own."""
        return self._with({name: value[index].clone() for name, value in self.state_dict().items()})

    def _with(self, state: dict[str, Tensor]) -> "MLP":
        changed = copy.deepcopy(self)
        for name, value in (*changed.named_parameters(), *changed.named_buffers()):
            value.data = state[name]
        return changed

    def side_by_side(self) -> "SideBySide":
        """A stack as one network: each member gets an equal share of a batch's rows, in order."""
        return SideBySide(self)

    @torch.no_grad()
    def with_trace(self, x: Float[Tensor, "r d"], s: Float[Tensor, " n"]) -> tuple[Tensor, Float[Tensor, " r"]]:
        """The output and the trace of its Jacobian in x, without autograd; for one network without a context.

        Like autograd, this propagates one gradient per dimension back through the layers. It is faster because it
        computes the derivatives of activations and features once for all dimensions, and scales weights instead of
        rows.
        """
        first, *rest = self.layers
        features = self.embed_point(x)
        h = first(features, self.from_time(self.embed_time(distinct_time(s)[..., None])))
        slopes, one = [], x.new_ones(())
        for layer in rest:
            sigmoid = h.sigmoid()
            active = h.mul_(sigmoid)
            slopes.append(torch.lerp(active, one, sigmoid, out=sigmoid))  # of silu: σ + h σ (1 − σ)
            h = layer(active)
        inward, *hidden, last = (cast(Tensor, layer.weight) for layer in self.layers)
        changes = self.embed_point.derivatives(features)
        pulled = torch.zeros_like(changes)
        for i in range(self.dimension):
            outer, *inner = *reversed(hidden), self.embed_point.along(i, inward)
            gradient = slopes[-1] @ (last[i, :, None] * outer)
            for weight, slope in zip(inner, reversed(slopes[:-1]), strict=True):
                gradient = gradient.mul_(slope) @ weight
            pulled += gradient
        return h - self.skip * x, (changes * pulled).sum(1) - self.dimension * self.skip

    def forward(
        self, x: Float[Tensor, "*m r d"], s: Float[Tensor, "*m n"], context: Float[Tensor, "*m r c"] | None = None
    ) -> Float[Tensor, "*m r d"]:
        time = (distinct_time(s) if s.ndim == 1 else s)[..., None]
        features = self.embed_point(x)
        if context is not None:
            features = torch.cat([features, context], dim=-1)
        first, *rest = self.layers
        h = first(features, self.from_time(self.embed_time(time)))
        for layer in rest:
            h = layer(silu(h, inplace=not torch.is_grad_enabled()))
        return h - self.skip[..., None, None] * x


class SideBySide:
    """The members of a stack on the rows of one batch: see :meth:`MLP.side_by_side`.

    Args:
        stack: of M members.
        members: (B,) the member of each row; None for equal shares in order.
    """

    def __init__(self, stack: MLP, members: Int[Tensor, " b"] | None = None) -> None:
        self.stack, self.members = stack, members
        if members is not None:
            present, self.layer, counts = members.unique(return_inverse=True, return_counts=True)
            self.stack = stack[present] if len(present) < len(stack.skip) else stack
            order = self.layer.argsort(stable=True)
            begin = counts.cumsum(0) - counts
            self.slot = torch.empty_like(order)
            self.slot[order] = torch.arange(len(order), device=order.device) - begin[self.layer[order]]
            self.width = int(counts.max())

    def __call__(self, x: Tensor, s: Tensor) -> Tensor:
        count = len(self.stack.skip)
        shared = len(distinct_time(s)) == 1
        if self.members is None:
            times = s[:1].expand(count, 1) if shared else s.reshape(count, -1)
            return self.stack(x.reshape(count, -1, x.shape[1]), times).reshape(x.shape)
        place = self.layer, self.slot
        points = x.new_zeros(count, self.width, x.shape[1]).index_put(place, x)
        times = s[:1].expand(count, 1) if shared else s.new_zeros(count, self.width).index_put(place, s)
        return self.stack(points, times)[place]

    def at_rows(self, rows: slice | Int[Tensor, " r"], points: int) -> "SideBySide":
        """The network for some rows of a batch of that many points; members without rows are left out."""
        members = len(self.stack.skip)
        equal = torch.arange(members, device=self.stack.skip.device).repeat_interleave(points // members)
        return SideBySide(self.stack, (equal if self.members is None else self.layer)[rows])


class _Affine(nn.Module):
    """h ↦ h Wᵀ + b with LeCun-normal weights, for one network or a stack; b may be given by the caller instead."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator | None, bias: bool = True) -> None:
        super().__init__()
        std = inputs**-0.5
        weight = nn.init.trunc_normal_(torch.empty(outputs, inputs), 0, std, -2 * std, 2 * std, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(1, outputs)) if bias else None

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        add = self.bias if bias is None else bias
        assert add is not None
        if self.weight.ndim == 2:
            return torch.addmm(add, h, self.weight.mT)
        return torch.baddbmm(add, h, self.weight.mT)
