"""U-Nets for images, called as ``network(x, s)`` with x of shape (B, C, H, W) and times s ∈ [0, 1] of shape (B,).

``FullResolutionUNet`` is the network of Zheng et al. 2023, which is that of Kingma et al. 2021 ("Variational diffusion
models"): the same resolution everywhere, residual blocks down and up with a skip connection from each, and attention in
the middle. ``SmallUNet`` is for CPUs: most of its weights work at low resolution, where they cost little.

The published network returns z + NN(z, s). The small one returns NN(z, s) plus a linear map, which depends on the time,
of contrasts between neighbouring pixels and of the fine features of each pixel; one of these is the noise that the
nearest levels would explain. The linear part is quick to learn: it contains the linear (Wiener) prediction at medium
noise, and the decoding of levels at the smallest noise. The last layers of NN, of every residual branch and of the
linear part start at zero.
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu

from diffusion_density.machine.errors import InputError
from diffusion_density.networks.blocks import (
    Attention,
    ChannelNorm,
    Contrasts,
    TimeEmbedding,
    fine_features,
    initialize,
    noise_of_levels,
    zeroed,
)
from diffusion_density.process.batches import distinct_time

NORM_GROUPS = 32


class ResidualBlock(nn.Module):
    """x + convolution(silu(norm(h + time))), h = convolution(silu(norm(x))), with 3×3 kernels.

    Args:
        inputs: number of input channels.
        outputs: number of output channels; if it differs, x passes through a 1×1 convolution.
        time_width: width of the embedded time.
        norms: normalisations of the inputs of the two convolutions.
        dropout: probability, before the second convolution.
        time_bias: whether the layer that adds the time has biases and starts at random, or has none and starts at zero.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        time_width: int,
        norms: tuple[nn.Module, nn.Module],
        dropout: float,
        time_bias: bool,
    ) -> None:
        super().__init__()
        self.first_norm, self.second_norm = norms
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        time = nn.Linear(time_width, outputs, bias=time_bias)
        self.time = time if time_bias else zeroed(time)
        self.dropout = nn.Dropout(dropout)
        self.second = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "n t"]) -> Float[Tensor, "b d h w"]:
        h = self.first(silu(self.first_norm(x))) + self.time(time)[:, :, None, None]
        h = self.second(self.dropout(silu(self.second_norm(h))))
        return self.shortcut(x) + h


class FullResolutionUNet(nn.Module):
    """The U-Net of Zheng et al. 2023, without resampling: 30.58 million parameters at width 128, 122.1 million at 256.

    The published input for the parameters of image augmentation is left out.

    Args:
        channels: C of the images.
        width: channels of every block; 64, 96, 128, …
        depth: number of residual blocks on the way down; there is one more on the way up.
        frequencies: of the fine features, in cycles per unit.
        dropout: probability within the blocks.
        attention: "middle" for attention only in the middle, "all" for attention also after every block.
        generator: draws the weights.

    Raises:
        InputError: if the width is not a multiple of 32, the number of groups of the normalisation, or not above 32.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        depth: int = 32,
        *,
        frequencies: tuple[float, ...] = (64.0, 128.0),
        dropout: float = 0.1,
        attention: Literal["middle", "all"] = "middle",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width % NORM_GROUPS or width == NORM_GROUPS:  # normalising groups of one channel would remove the time
            least = 2 * NORM_GROUPS
            raise InputError(f"U-Net: width must be a multiple of {NORM_GROUPS}, at least {least}, got {width}")
        self.frequencies = frequencies

        def norm(count: int = width) -> nn.Module:
            return nn.GroupNorm(NORM_GROUPS, count, eps=1e-6)

        def block(inputs: int = width) -> ResidualBlock:
            return ResidualBlock(inputs, width, 4 * width, (norm(inputs), norm()), dropout, time_bias=False)

        def mixer() -> nn.Module:
            return Attention(width, norm()) if attention == "all" else nn.Identity()

        self.time = TimeEmbedding(width, 4 * width)
        self.stem = nn.Conv2d(channels * (1 + 2 * len(frequencies)), width, 3, padding=1)
        self.down = nn.ModuleList(block() for _ in range(depth))
        self.down_mixers = nn.ModuleList(mixer() for _ in range(depth))
        self.middle = nn.ModuleList([block(), block()])
        self.middle_mixer = Attention(width, norm())
        self.up = nn.ModuleList(block(2 * width) for _ in range(depth + 1))
        self.up_mixers = nn.ModuleList(mixer() for _ in range(depth + 1))
        self.norm = norm()
        self.head = zeroed(nn.Conv2d(width, channels, 3, padding=1))
        initialize(self, generator)

    def forward(self, x: Float[Tensor, "b c h w"], s: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        time = self.time(distinct_time(s))
        h = self.stem(fine_features(x, self.frequencies))
        skips = [h]
        for block, mixer in zip(self.down, self.down_mixers, strict=True):
            h = mixer(block(h, time))
            skips.append(h)
        h = self.middle[1](self.middle_mixer(self.middle[0](h, time)), time)
        for block, mixer in zip(self.up, self.up_mixers, strict=True):
            h = mixer(block(torch.cat([h, skips.pop()], dim=1), time))
        return x + self.head(silu(self.norm(h)))


class SmallUNet(nn.Module):
    """A U-Net with resampling that trains on a CPU, in channels-last memory.

    Level i works at resolution H/(patch · 2^i) with ``widths[i]`` channels. It has ``blocks`` residual blocks on the
    way down and the same number on the way up; the coarsest level has attention between them. On the way up, a 1×1
    convolution of the coarse pixels, repeated to the finer resolution, is added to a 1×1 convolution of the skip.

    Args:
        channels: C of the images.
        widths: channels of the levels, finest first.
        blocks: number of residual blocks of each level, on the way down and again on the way up.
        patch: side of the pixel blocks that become channels at the start; 1 keeps the resolution.
        contrasts: number of filters whose amplified outputs are features too.
        frequencies: of the fine features, in cycles per unit; see ``blocks.level_frequencies``.
        gammas: γ = log(σ²/α²) of the noise at s = 0 and s = 1, linear between.
        time_width: width of the embedded time.
        dropout: probability within the blocks.
        generator: draws the weights.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, ...] = (64, 96),
        *,
        blocks: int = 1,
        patch: int = 2,
        contrasts: int = 24,
        frequencies: tuple[float, ...] = (64.0, 128.0),
        gammas: tuple[float, float] = (-13.3, 5.0),
        time_width: int = 128,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.gammas = gammas
        self.patch = patch

        def level(width: int) -> _Level:
            return _Level(width, blocks, time_width, dropout)

        pairs = list(pairwise(widths))
        self.time = TimeEmbedding(time_width, time_width)
        self.contrasts = Contrasts(channels, contrasts, time_width)
        self.from_contrasts = zeroed(nn.Conv2d(contrasts, channels, 1, bias=False))
        self.from_pixels = zeroed(nn.Linear(time_width, 2 + 2 * len(frequencies)))
        features = channels * (2 + 2 * len(frequencies)) + contrasts
        self.stem = nn.Conv2d(features * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(level(width) for width in widths)
        self.coarsen = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.attention = Attention(widths[-1], ChannelNorm(widths[-1]))
        self.up = nn.ModuleList(level(width) for width in widths)
        self.refine = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.skip = nn.ModuleList(nn.Conv2d(fine, fine, 1) for fine, _ in pairs)
        self.norm = ChannelNorm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], channels * patch**2, 3, padding=1))
        initialize(self, generator)
        self.contrasts.initialize()

    def forward(self, x: Float[Tensor, "b c h w"], s: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """The prediction at x and s.

        Raises:
            InputError: if the resolution cannot be halved for each level.
        """
        factor = self.patch * 2 ** len(self.coarsen)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise InputError(f"U-Net: images of {x.shape[2]}×{x.shape[3]} are not a multiple of {factor} pixels")
        s = distinct_time(s)
        time, noise = self.time(s), self._noise(s)[:, None, None, None]
        decoded = noise_of_levels(x, 2 * self.frequencies[-1], noise)
        pixels = torch.cat([fine_features(x, self.frequencies, noise), decoded], dim=1)
        contrasts = self.contrasts(x, time, noise)
        linear = pixels.unflatten(1, (-1, x.shape[1])) * self.from_pixels(time)[:, :, None, None, None]
        features = pixel_unshuffle(torch.cat([pixels, contrasts.asinh()], dim=1), self.patch)
        h = self.stem(features.contiguous(memory_format=torch.channels_last))
        skips: list[Tensor] = []
        for i, level in enumerate(self.down):
            if i:
                skips.append(h)
                h = self.coarsen[i - 1](h)
            h = level(h, time)
        h = self.attention(h)
        for i, level in reversed(list(enumerate(self.up))):
            h = level(h, time)
            if i:
                h = interpolate(self.refine[i - 1](h), scale_factor=2) + self.skip[i - 1](skips.pop())
        nonlinear = pixel_shuffle(self.head(silu(self.norm(h))), self.patch)
        return linear.sum(1) + self.from_contrasts(contrasts) + nonlinear

    def _noise(self, s: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """σ of the variance-preserving path at the times s."""
        first, last = self.gammas
        return (first + (last - first) * s).sigmoid().sqrt()


class _Level(nn.Module):
    """A sequence of residual blocks of one width."""

    def __init__(self, width: int, blocks: int, time_width: int, dropout: float) -> None:
        super().__init__()
        norms = [(ChannelNorm(width), ChannelNorm(width)) for _ in range(blocks)]
        self.blocks = nn.ModuleList(ResidualBlock(width, width, time_width, pair, dropout, True) for pair in norms)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, time)
        return h
