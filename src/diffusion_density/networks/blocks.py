r"""Parts that image networks share: features of pixels and of time, normalisation, attention, initial weights.

Fine features of a pixel (Variational diffusion models, Kingma et al. 2021, appendix C) are sin and cos of 2π f z. The
centres of B levels are 2/B apart, so at f = B/2 (2⁷ for 256 levels) all levels have one phase and what remains is the
noise itself; f = B/4 tells even levels from odd ones. Both are needed where the noise is finer than a level.
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
MOST_NOISE = 3.0

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def level_frequencies(levels: int) -> tuple[float, float]:
    """The frequencies of the fine features for B levels, in cycles per unit: (B/4, B/2); (2⁶, 2⁷) for 256."""
    return levels / 4, levels / 2


def fine_features(
    x: Float[Tensor, "b c h w"], frequencies: tuple[float, ...], noise: Float[Tensor, "n 1 1 1"] | None = None
) -> Float[Tensor, "b k h w"]:
    """x with sin and cos of 2π f x for every frequency, along the channels: C (1 + 2 F) of them.

    Noise of size σ leaves exp(−½ (2π f σ)²) of what a wave says of the levels. Given ``noise``, waves fade with half of
    that exponent's σ: those that say nothing would only make the network a rough function of x.
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
    """E[ε | z] where every level is as likely, at the least noise; it fades where the noise hides the levels.

    With z = α x + σ ε of variance-preserving noise σ and the bin centres x_j of B levels,

        Σ_j w_j (z − α x_j)/σ,   w = softmax of −½ ((z − α x_j)/σ)²,

    over the seven nearest levels. It is exact where there are no other levels near, so that the flow of a network that
    passes it on has the right divergence there, which a fit to waves would miss.

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
    """What is left of a wave of that frequency."""
    return (-0.5 * (math.pi * frequency * noise).square()).exp()


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 s through two layers: (B,) to (B, width).

    Args:
        sinusoids: half of them sines, half cosines, of geometrically spaced periods.
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
    """Differences between neighbouring pixels, amplified by what the time calls for: (B, C, H, W) to (B, K, H, W).

    A prediction of noise of size σ multiplies differences of that size by 1/σ. Here learned filters, at first of mean
    zero, meet positive gains that depend on the time and start spread from 1 to 150, so that some are of use at every
    noise level and no layer need have weights of that size. No gain makes the noise larger than ``MOST_NOISE``: finer
    differences than the noise say nothing, and would make the network a rough function of x.

    Args:
        channels: C.
        count: K, filters.
        time_width: width of the embedded time.
        size: side of the filters, odd.
    """

    def __init__(self, channels: int, count: int, time_width: int, size: int = 7) -> None:
        super().__init__()
        self.filters = nn.Conv2d(channels, count, size, padding=size // 2, bias=False)
        self.log_gains = zeroed(nn.Linear(time_width, count))

    def initialize(self) -> None:
        """Take the mean out of each filter and spread the gains; after ``initialize`` of the network."""
        with torch.no_grad():
            self.filters.weight -= self.filters.weight.mean((2, 3), keepdim=True)
            self.log_gains.bias.copy_(torch.linspace(0, LARGEST_LOG_GAIN, len(self.log_gains.bias)))

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "n t"], noise: Float[Tensor, "n 1 1 1"]
    ) -> Float[Tensor, "b k h w"]:
        gains = self.log_gains(time).exp()[:, :, None, None]
        gains = gains / (1 + (gains * noise / MOST_NOISE).square()).sqrt()
        contrasts: Tensor = self.filters(x) * gains
        return contrasts


class ChannelNorm(nn.Module):
    """Every pixel normalised over its channels, with a gain and a shift for each channel.

    In channels-last memory this is one contiguous pass, several times cheaper than group normalisation's way back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class Attention(nn.Module):
    """x + attention of one head among all pixels; the output layer starts at zero.

    Written out, since fused kernels have no second derivative and second-order objectives need one. Takes memory for
    (H W)² numbers an image.
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
    """The module, marked to start with all parameters at zero (see ``initialize``)."""
    module.register_buffer("start_at_zero", torch.tensor(True), persistent=False)
    return module


def initialize(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the weights of all linear and convolutional layers anew: LeCun normal, cut at two standard deviations.

    Biases, and the layers marked by ``zeroed``, become zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            std = 0.0 if hasattr(module, "start_at_zero") else fan_in**-0.5 / 0.8796  # of the cut normal
            with torch.no_grad():
                nn.init.trunc_normal_(module.weight, 0, 1, -2, 2, generator=generator).mul_(std)
                if module.bias is not None:
                    module.bias.zero_()
