r"""AdamW with averaged weights, as one state that a checkpoint holds.

With gradients g and step n, β₁ = 0.9, β₂ = 0.99 (paper D, section 5), the weights follow decoupled weight decay

.. math:: \theta \leftarrow \theta - \eta\,\omega\,\theta - \eta\, \hat m / (\sqrt{\hat v} + 10^{-8}),

and the averages a ← ρ a + (1 − ρ) θ, which start at zero and are divided by 1 − ρⁿ when given out, so that the initial
weights, which are noise, never count. Biases are not decayed. The functional form of torch is used, since its classes
import the compiler, two seconds in every process.
"""

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from diffusion_density.machine.errors import InputError

PARTS = ("weight", "average", "first", "second")
BETAS = (0.9, 0.99)

Network = TypeVar("Network", bound=nn.Module)


class AveragedAdamW:
    """The optimiser of one network, whose weights it changes in place.

    Args:
        network: on its device already.
        weight_decay: ω.
        ema: ρ, decay of the averages; 0 keeps the raw weights.
    """

    def __init__(self, network: nn.Module, weight_decay: float, ema: float) -> None:
        named = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.names = list(named)
        self.weights: list[Tensor] = list(named.values())
        self.weight_decay = weight_decay
        self.ema = ema
        self.average, self.first, self.second = ([torch.zeros_like(value) for value in self.weights] for _ in range(3))
        # the optimiser counts on the device, and each parameter on its own
        self.counts = [torch.zeros((), device=value.device) for value in self.weights]
        decayed = [name.rpartition(".")[2] != "bias" for name in self.names]
        self._groups = [
            (decay, [i for i, of in enumerate(decayed) if of is wanted])
            for decay, wanted in ((weight_decay, True), (0.0, False))
        ]

    @property
    def steps(self) -> int:
        """n, the steps taken."""
        return int(self.counts[0])

    @torch.no_grad()
    def step(self, learning_rate: float, clip: float | None) -> float:
        """Update the weights by their gradients, cut to the norm ``clip``, and drop these.

        Returns:
            The norm of the gradient before it was cut. If it is not finite nothing is changed.
        """
        norm = nn.utils.clip_grad_norm_(self.weights, float("inf") if clip is None else clip).item()
        if norm - norm != 0:
            return norm
        for decay, members in self._groups:
            if members:
                adamw(
                    [self.weights[i] for i in members],
                    [self._gradient(i) for i in members],
                    [self.first[i] for i in members],
                    [self.second[i] for i in members],
                    [],
                    [self.counts[i] for i in members],
                    fused=True,
                    amsgrad=False,
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    lr=learning_rate,
                    weight_decay=decay,
                    eps=1e-8,
                    maximize=False,
                )
        torch._foreach_lerp_(self.average, self.weights, 1 - self.ema)
        for value in self.weights:
            value.grad = None
        return norm

    def averaged(self, network: Network) -> Network:
        """A copy of the network with the averaged weights, for evaluation."""
        given = copy.deepcopy(network).requires_grad_(False).eval()
        own = dict(given.named_parameters())
        correction = 1 - self.ema**self.steps
        for name, value in zip(self.names, self.average, strict=True):
            own[name].copy_(value / correction)
        return given

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the number of steps, by ``part/parameter``."""
        parts = (self.weights, self.average, self.first, self.second)
        return {
            f"{part}/{name}": value
            for part, values in zip(PARTS, parts, strict=True)
            for name, value in zip(self.names, values, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from what ``tensors`` gave after that many steps.

        Raises:
            InputError: if they are not of this network.
        """
        own = self.tensors()
        shapes = {name: value.shape for name, value in own.items()}
        if shapes != {name: value.shape for name, value in tensors.items()}:
            raise InputError("checkpoint: the weights are not of this network")
        for name, value in own.items():
            value.copy_(tensors[name])
        for count in self.counts:
            count.fill_(steps)

    def _gradient(self, i: int) -> Tensor:
        gradient = self.weights[i].grad
        assert gradient is not None, f"{self.names[i]} does not take part in the loss"
        return gradient
