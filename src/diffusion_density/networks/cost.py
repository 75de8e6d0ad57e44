"""The cost of a network: parameters and operations, counted without running it."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one forward pass on a batch x of that shape (B, *), two per multiply-add.

    Matrix products and convolutions are counted, on tensors without data. A training step takes about three times this.
    """
    weightless = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        weightless(torch.empty(shape, device="meta"), torch.empty(shape[0], device="meta"))
    return int(counter.get_total_flops())
