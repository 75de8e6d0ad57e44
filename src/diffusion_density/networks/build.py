"""Make a U-Net from its sizes."""

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
    """The network of that size for images with C channels and B levels.

    Args:
        size: kind and sizes of the network.
        channels: C.
        levels: B; it sets the frequencies of the fine features.
        gammas: γ = log(σ²/α²) at s = 0 and s = 1; in the small U-Net features that are finer than the noise fade.
        generator: draws the weights.
    """
    settings = size.model_dump(exclude={"kind"}) | {"frequencies": level_frequencies(levels)}
    if isinstance(size, SmallUNetSize):
        return SmallUNet(channels, gammas=gammas, generator=generator, **settings)
    return FullResolutionUNet(channels, generator=generator, **settings)
