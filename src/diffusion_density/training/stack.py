r"""Train many small networks of one shape together.

Sweeps need dozens of small networks, and each is much too small to keep a processor busy. Here their parameters are
stacked along a new first dimension, every matrix product becomes a batched one, and one pass trains all of them. The
members do not influence each other: the loss is the sum of their losses, Adam and the averaging work element by
element, and each member has its own data and random stream. So a member gets the weights that it would get alone,
except for the order of sums.

One optimiser step takes a minibatch of B samples with n_t throws each, that is, B·n_t independent random draws of
(time, noise).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.schedules import Schedule
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.objectives import Weighting, proposal, residual, weight

ROWS_PER_PASS = 131_072  # of all members together; fewer rows cost overhead, and more do not help (measured)


@dataclass(frozen=True)
class Member:
    """One network of a stack.

    Attributes:
        network: all members' networks have the same shape.
        prediction: what it predicts.
        weighting: the weighting of its loss.
        data: (N, D) training samples, or (N, D + C) for a conditional network, with the context in the last columns.
        stream: seed of the minibatches and throws. Members with equal data and stream get the same minibatches and
            throws, so that a comparison between them has no other difference.
    """

    network: MLP
    prediction: Prediction
    weighting: Weighting
    data: Tensor
    stream: int


class _Throws:
    """The minibatches of one pair (data, stream): shuffled in each epoch, with n_t throws per sample."""

    def __init__(self, data: Tensor, dimension: int, stream: int, batch: int, throws: int) -> None:
        self.data = data
        self.dimension = dimension
        self.batch = batch
        self.throws = throws
        self.generator = torch.Generator(device=data.device).manual_seed(stream)
        self.order = torch.empty(0, dtype=torch.long, device=data.device)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (B·n_t, D + C), uniform random numbers (B·n_t,) for the times, and noise (B·n_t, D)."""
        if len(self.order) < self.batch:
            self.order = torch.randperm(len(self.data), generator=self.generator, device=self.data.device)
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        x = self.data[chosen].repeat_interleave(self.throws, dim=0)
        u = torch.rand(len(x), generator=self.generator, device=x.device, dtype=x.dtype)
        shape = len(x), self.dimension
        return x, u, torch.randn(shape, generator=self.generator, device=x.device, dtype=x.dtype)


def train_stack(
    members: Sequence[Member],
    schedule: Schedule,
    *,
    throws: int,
    batch_size: int,
    learning_rate: float,
    ema: float,
    checkpoints: Sequence[int],
) -> Iterator[tuple[int, MLP | None]]:
    """Train all members together.

    Args:
        members: the networks; they are not changed.
        schedule: the forward process.
        throws: n_t, draws of (time, noise) per sample of a minibatch.
        batch_size: B, samples per minibatch; must divide N.
        learning_rate: of Adam, constant.
        ema: decay of the averaged weights, bias-corrected; 0 uses the current weights.
        checkpoints: optimiser steps after which to yield the networks, in any order.

    Yields:
        After each step its number, and at checkpoints a stack of the (averaged) networks, in the order of the members.

    Raises:
        InputError: if the members differ in shape or size, or the batch size does not divide N.
        NumericalError: if the loss is not finite; the message names the step and the member.
    """
    sizes = {tuple(member.data.shape) for member in members}
    if len(sizes) != 1:
        raise InputError(f"training: members of one stack need data of one shape, got {sorted(sizes)}")
    samples = next(iter(sizes))[0]
    if samples % batch_size:
        raise InputError(f"training: batch_size {batch_size} must divide the {samples} samples")
    networks = MLP.stack([member.network for member in members])
    dimension = networks.dimension
    streams = {_key(m): _Throws(m.data, dimension, m.stream, batch_size, throws) for m in members}
    objective = _Objective(members, schedule)
    optimiser = AveragedAdamW(networks, weight_decay=0.0, ema=ema, betas=(0.9, 0.999))
    rows = max(1, ROWS_PER_PASS // len(members))
    for step in range(1, max(checkpoints) + 1):
        draws = {key: stream.draw() for key, stream in streams.items()}
        x, u, noise = (torch.stack([draws[_key(m)][i] for m in members]) for i in range(3))
        losses = torch.zeros(len(members), device=x.device)
        for parts in zip(x.split(rows, 1), u.split(rows, 1), noise.split(rows, 1), strict=True):
            loss = objective(networks, *parts) / x.shape[1]
            loss.sum().backward()
            losses += loss.detach()
        if not bool(losses.isfinite().all()):
            member = int((~losses.isfinite()).nonzero()[0])
            raise NumericalError(f"training: the loss of member {member} is not finite at step {step}")
        optimiser.update(learning_rate)
        yield step, optimiser.averaged(networks).requires_grad_() if step in checkpoints else None


def _key(member: Member) -> tuple[int, int]:
    return id(member.data), member.stream


class _Objective:
    """The members' losses; neighbours with equal (prediction, weighting) are computed together."""

    def __init__(self, members: Sequence[Member], schedule: Schedule) -> None:
        self.schedule = schedule
        self.groups: list[tuple[Prediction, Weighting, slice]] = []
        start = 0
        for (prediction, weighting), group in groupby(members, key=lambda m: (m.prediction, m.weighting)):
            end = start + len(list(group))
            self.groups.append((prediction, weighting, slice(start, end)))
            start = end

    def __call__(self, networks: MLP, x: Tensor, u: Tensor, noise: Tensor) -> Tensor:
        """(M,) sums over rows of the weighted ‖r‖²; samples (M, R, D + C), uniform numbers (M, R), noise (M, R, D)."""
        s, scale = torch.empty_like(u), torch.empty_like(u)
        for _, weighting, part in self.groups:
            times = proposal(weighting, self.schedule)
            s[part] = times.times(u[part])
            scale[part] = weight(weighting, self.schedule, s[part]) / times.density(s[part])
        clean, context = x[..., : networks.dimension], x[..., networks.dimension :]
        y = self.schedule.alpha(s)[..., None] * clean + self.schedule.sigma(s)[..., None] * noise
        output = networks(y, s, context if context.shape[-1] else None)
        losses = []
        for prediction, _, part in self.groups:
            out, eps, point, time = (value[part].flatten(0, 1) for value in (output, noise, y, s))
            square = residual(prediction, out, eps, self.schedule, point, time).square().sum(1)
            losses.append((scale[part] * square.reshape(scale[part].shape)).sum(1))
        return torch.cat(losses)
