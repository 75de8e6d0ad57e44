"""From the sizes of a U-Net to the U-Net."""

import torch

from diffusion_density.networks.blocks import level_frequencies
from diffusion_density.networks.sizes import FullResolutionUNetSize, SmallUNetSize
from diffusion_density.networks.unet import FullResolutionUNet, SmallUNet


def build_unet(
    size: SmallUNetSize | FullResolutionUNetSize,
    channels: int,
    levels: int,
    gammas: tuple[float, float],
    generator: torch.Generator | None = None,
) -> SmallUNet | FullResolutionUNet:
    """The network of that size for images of ``channels`` channels with ``levels`` levels.

    Args:
        size: its kind and sizes.
        channels: C.
        levels: B, which sets the frequencies of the fine features.
        gammas: γ at s = 0 and s = 1, for the fading of what is finer than the noise (small U-Net).
        generator: draws the weights.
    """
    settings = size.model_dump(exclude={"kind"}) | {"frequencies": level_frequencies(levels)}
    if isinstance(size, SmallUNetSize):
        return SmallUNet(channels, gammas=gammas, generator=generator, **settings)
    return FullResolutionUNet(channels, generator=generator, **settings)
