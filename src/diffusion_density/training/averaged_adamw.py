r"""AdamW (Loshchilov and Hutter 2019) with averaged weights, as one state that a checkpoint can hold.

With bias-corrected moments m̂ and v̂ of the gradients, and step n, the weights follow decoupled weight decay

.. math:: \theta \leftarrow \theta - \eta\,\omega\,\theta - \eta\, \hat m / (\sqrt{\hat v} + 10^{-8}).

The averages are a ← ρ a + (1 − ρ) θ. They start at zero and are divided by 1 − ρⁿ when they are used, so that the
random initial weights do not count. Biases are not decayed. This module calls torch's functional form, because torch's
optimiser classes import the compiler, which takes two seconds in every process.
"""

import copy
import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from diffusion_density.machine.errors import InputError

PARTS = ("weight", "average", "first", "second")  # of the state: two averages of weights and two moments of gradients

Network = TypeVar("Network", bound=nn.Module)


class AveragedAdamW:
    """The optimiser of one network, whose weights it changes in place.

    Args:
        network: on its device already.
        weight_decay: ω.
        ema: ρ, decay of the averages; 0 uses the current weights.
        betas: β₁ and β₂, decays of the two moments; by default those of Zheng et al. 2023.
    """

    def __init__(
        self, network: nn.Module, weight_decay: float, ema: float, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        named = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.names = list(named)
        self.weights: list[Tensor] = list(named.values())
        self.ema = ema
        self.betas = betas
        self.average, self.first, self.second = ([torch.zeros_like(value) for value in self.weights] for _ in range(3))
        # the fused optimiser needs a counter per parameter, on the device
        self.counts = [torch.zeros((), device=value.device) for value in self.weights]
        self._groups: dict[float, list[int]] = {}
        for i, name in enumerate(self.names):
            self._groups.setdefault(0.0 if name.rpartition(".")[2] == "bias" else weight_decay, []).append(i)

    @property
    def steps(self) -> int:
        """n, the number of steps so far."""
        return int(self.counts[0])

    @torch.no_grad()
    def step(self, learning_rate: float, clip: float | None) -> float:
        """Update the weights with their gradients, clipped to the norm ``clip``, and remove the gradients.

        Returns:
            The norm of the gradient before clipping. If it is not finite, nothing is changed.
        """
        norm = nn.utils.clip_grad_norm_(self.weights, float("inf") if clip is None else clip).item()
        if math.isfinite(norm):
            self.update(learning_rate)
        return norm

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Update the weights with their gradients as they are, and remove the gradients."""
        for decay, members in self._groups.items():
            adamw(
                [self.weights[i] for i in members],
                [self._gradient(i) for i in members],
                [self.first[i] for i in members],
                [self.second[i] for i in members],
                [],
                [self.counts[i] for i in members],
                fused=True,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=learning_rate,
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )
        torch._foreach_lerp_(self.average, self.weights, 1 - self.ema)
        for value in self.weights:
            value.grad = None

    def averaged(self, network: Network) -> Network:
        """A copy of the network with the averaged weights, for evaluation."""
        averaged = copy.deepcopy(network).requires_grad_(False).eval()
        parameters = dict(averaged.named_parameters())
        correction = 1 - self.ema**self.steps
        for name, value in zip(self.names, self.average, strict=True):
            parameters[name].copy_(value / correction)
        return averaged

    def tensors(self) -> dict[str, Tensor]:
        """The whole state except the number of steps, by ``part/parameter``."""
        parts = (self.weights, self.average, self.first, self.second)
        return {
            f"{part}/{name}": value
            for part, values in zip(PARTS, parts, strict=True)
            for name, value in zip(self.names, values, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Restore the state that ``tensors()`` gave after that many steps.

        Raises:
            InputError: if the tensors belong to another network.
        """
        state = self.tensors()
        shapes = {name: value.shape for name, value in state.items()}
        if shapes != {name: value.shape for name, value in tensors.items()}:
            raise InputError("checkpoint: the weights are not of this network")
        for name, value in state.items():
            value.copy_(tensors[name])
        for count in self.counts:
            count.fill_(steps)

    def _gradient(self, i: int) -> Tensor:
        gradient = self.weights[i].grad
        assert gradient is not None, f"{self.names[i]} does not take part in the loss"
        return gradient
