r"""Parts of the image networks: features of pixels and of time, normalisation, attention, initial weights.

The fine features of a pixel are sin and cos of 2π f z (Kingma et al. 2021, "Variational diffusion models", appendix C).
The centres of B levels are 2/B apart. So at f = B/2 (2⁷ for 256 levels) all levels have the same phase, and the feature
shows only the noise; at f = B/4 it distinguishes even and odd levels. Both are needed if the noise is finer than a
level.
"""

import math
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

LONGEST_PERIOD = 10_000.0
TIME_SCALE = 1000.0
LARGEST_LOG_GAIN = 5.0
LARGEST_AMPLIFIED_NOISE = 3.0

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def level_frequencies(levels: int) -> tuple[float, float]:
    """The frequencies of the fine features for B levels, in cycles per unit: (B/4, B/2); (2⁶, 2⁷) for 256."""
    return levels / 4, levels / 2


def fine_features(
    x: Float[Tensor, "b c h w"], frequencies: tuple[float, ...], noise: Float[Tensor, "n 1 1 1"] | None = None
) -> Float[Tensor, "b k h w"]:
    """x together with sin and cos of 2π f x for each frequency, along the channels: C (1 + 2 F) channels.

    Noise of size σ reduces the information of a wave about the levels to exp(−½ (2π f σ)²). If ``noise`` is given, the
    waves fade by this factor with σ/2 in place of σ: a wave without information would only make the network a rough
    function of x.
    """
    waves = []
    for frequency in frequencies:
        phase = 2 * math.pi * frequency * x
        fade = 1.0 if noise is None else _fade(frequency, noise)
        waves += [phase.sin() * fade, phase.cos() * fade]
    return torch.cat([x, *waves], dim=1)


def noise_of_levels(
    x: Float[Tensor, "b c h w"], levels: float, noise: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "b c h w"]:
    """E[ε | z] if all levels have the same probability, for little noise; it fades where the noise hides the levels.

    For z = α x + σ ε with variance-preserving noise σ and the centres x_j of B levels it is

        Σ_j w_j (z − α x_j)/σ,   w = softmax of −½ ((z − α x_j)/σ)²,

    over the seven nearest levels. It is exact if no other levels are near. A network that passes it on then has the
    right divergence, which a fit of waves would not give.

    Args:
        x: z.
        levels: B.
        noise: σ.
    """
    alpha = (1 - noise.square()).sqrt()
    place = (x / alpha + 1) * levels / 2 - 0.5
    nearest = place.detach().round()
    offsets = place[..., None] - nearest[..., None] - torch.arange(-3, 4, device=x.device, dtype=x.dtype)
    distances = offsets * (2 * alpha / (levels * noise))[..., None]
    decoded = ((-0.5 * distances.square()).softmax(-1) * distances).sum(-1)
    return decoded * _fade(levels / 2, noise)


def _fade(frequency: float, noise: Tensor) -> Tensor:
    """The factor by which a wave of that frequency fades."""
    return (-0.5 * (math.pi * frequency * noise).square()).exp()


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 s through two layers: (B,) to (B, width).

    Args:
        sinusoids: number of sines plus cosines; their periods are spaced geometrically.
        width: of both layers.
    """

    rates: Tensor

    def __init__(self, sinusoids: int, width: int) -> None:
        super().__init__()
        half = sinusoids // 2
        rates = TIME_SCALE * LONGEST_PERIOD ** -(torch.arange(half, dtype=torch.float32) / max(half - 1, 1))
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, s: Float[Tensor, " b"]) -> Float[Tensor, "b t"]:
        phase = s[:, None] * self.rates
        embedding: Tensor = self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))
        return embedding


class Contrasts(nn.Module):
    """Differences between neighbouring pixels, with a gain that depends on the time: (B, C, H, W) to (B, K, H, W).

    To predict noise of size σ, a network must multiply differences of that size by 1/σ. Here learned filters, which
    start with mean zero, are multiplied by positive gains that depend on the time. The gains start between 1 and 150,
    so some filters are useful at every noise level, and no layer needs such large weights. The gains are limited so
    that the amplified noise is at most ``LARGEST_AMPLIFIED_NOISE``: differences finer than the noise have no
    information, and would make the network a rough function of x.

    Args:
        channels: C.
        count: K, number of filters.
        time_width: width of the embedded time.
        size: side length of the filters, odd.
    """

    def __init__(self, channels: int, count: int, time_width: int, size: int = 7) -> None:
        super().__init__()
        self.filters = nn.Conv2d(channels, count, size, padding=size // 2, bias=False)
        self.log_gains = zeroed(nn.Linear(time_width, count))

    def initialize(self) -> None:
        """Subtract the mean of each filter, and spread the gains; call this after ``initialize`` of the network."""
        with torch.no_grad():
            self.filters.weight -= self.filters.weight.mean((2, 3), keepdim=True)
            self.log_gains.bias.copy_(torch.linspace(0, LARGEST_LOG_GAIN, len(self.log_gains.bias)))

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "n t"], noise: Float[Tensor, "n 1 1 1"]
    ) -> Float[Tensor, "b k h w"]:
        gains = self.log_gains(time).exp()[:, :, None, None]
        gains = gains / (1 + (gains * noise / LARGEST_AMPLIFIED_NOISE).square()).sqrt()
        contrasts: Tensor = self.filters(x) * gains
        return contrasts


class ChannelNorm(nn.Module):
    """Normalise every pixel over its channels, with a gain and a shift for each channel.

    In channels-last memory this is one contiguous pass, and its gradient several times cheaper than that of group
    normalisation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class Attention(nn.Module):
    """x + attention with one head among all pixels; the output layer starts at zero.

    It is written out because fused kernels have no second derivative, which second-order objectives need. It stores
    (H W)² numbers per image.
    """

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = self.query_key_value(self.norm(x)).flatten(2).chunk(3, dim=1)
        weights = (query.mT @ key * x.shape[1] ** -0.5).softmax(dim=-1)
        mixed: Tensor = self.out((value @ weights.mT).view(x.shape))
        return x + mixed


def zeroed(module: AnyModule) -> AnyModule:
    """The module, with a mark that its parameters start at zero (see ``initialize``)."""
    module.register_buffer("start_at_zero", torch.tensor(True), persistent=False)
    return module


def initialize(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the weights of all linear and convolutional layers: LeCun normal, truncated at two standard deviations.

    Biases and the layers marked by ``zeroed`` become zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            std = 0.0 if hasattr(module, "start_at_zero") else fan_in**-0.5 / 0.8796  # of the truncated normal
            with torch.no_grad():
                nn.init.trunc_normal_(module.weight, 0, 1, -2, 2, generator=generator).mul_(std)
                if module.bias is not None:
                    module.bias.zero_()
