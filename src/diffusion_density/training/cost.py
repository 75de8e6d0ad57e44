"""The cost of training in floating-point operations, counted and not timed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from diffusion_density.training.flow_matching import FlowMatching

FIRST_ORDER, SECOND_ORDER = 3, 6
"""Operations of a training step, in units of a forward pass: about what `step_flops` counts for this library's
networks.

First order is flow matching without, second order with the trace term."""


class _Counter(TorchDispatchMode):
    """Adds up torch's own counts; torch's `FlopCounterMode` cannot follow the gradient of a gradient."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch left this method without annotations
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 (torch's operators)
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        options = dict(kwargs or {})
        result = func(*args, **options)
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **options, out_val=result)
        return result


def step_flops(network: nn.Module, objective: FlowMatching, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one training step for one image (C, H, W), forward and backward.

    Matrix products and convolutions are counted, two operations per multiply-add, by running the step on one image.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *shape, generator=generator)
    noise = torch.randn(1, *shape, generator=generator)
    u = torch.rand(1, generator=generator, dtype=torch.float64)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with _Counter() as counter:
        loss = objective(network, x, u, noise, objective.probe(noise, generator)).sum()
        torch.autograd.grad(loss, weights, allow_unused=True)
    return counter.total
