r"""Random Fourier features: x ↦ [x, sin(2π B x), cos(2π B x)], B ~ N(0, scale²), drawn once and never trained.

The scale is the standard deviation of the frequencies. The code of Premkumar 2024 has "scale 10" times a normal with
standard deviation 0.01, which is 0.1 here. With N(0, 10²) such a network does not train.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Map (B, D) to (B, D + 2 F).

    Args:
        dimension: D.
        frequencies: F; 0 leaves x as it is.
        scale: standard deviation of the frequencies.
        generator: draws them.
    """

    frequencies: Tensor

    def __init__(
        self, dimension: int, frequencies: int, scale: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        draws = torch.randn(dimension, frequencies, generator=generator)
        self.register_buffer("frequencies", 2 * math.pi * scale * draws)

    @property
    def width(self) -> int:
        """Numbers per row of the output."""
        dimension, count = self.frequencies.shape[-2:]
        return dimension + 2 * count

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b w"]:
        phase = x @ self.frequencies
        return torch.cat([x, phase.sin(), phase.cos()], dim=-1)

    def derivatives(self, features: Float[Tensor, "*b w"]) -> Float[Tensor, "*b v"]:
        """The derivatives of the features with respect to their phases, (B, 1 + 2 F): 1, the cosines, minus the sines.

        :meth:`along` gives the other factor of the chain rule.
        """
        dimension, count = self.frequencies.shape
        point, sine, cosine = features.split([dimension, count, count], dim=-1)
        return torch.cat([torch.ones_like(point[..., :1]), cosine, -sine], dim=-1)

    def along(self, i: int, weight: Float[Tensor, "h w"]) -> Float[Tensor, "h v"]:
        """The effect of coordinate i of the point on h = ``weight`` times features, per unit of :meth:`derivatives`."""
        frequencies = self.frequencies[i].repeat(2)
        return torch.cat([weight[:, i : i + 1], weight[:, len(self.frequencies) :] * frequencies], dim=1)
