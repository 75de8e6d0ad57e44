r"""The size of an image under general lossless coders (PNG, WebP), in bits per dimension.

A coder that writes an image of D = C H W numbers into a file of B bytes, without loss, uses

.. math:: \text{bits/dim} = 8 B / D.

Apart from the overhead of the file format this is −log₂ of a probability. The bits/dim of a density model can therefore
be compared with it: a model that needs more bits on the same images is broken. Each image is a file of its own and
*all* bytes count. For small images the file format itself is a large part: PNG's signature, chunk headers and checksums
take at least 57 bytes, which is 0.15 bits/dim of 32×32 RGB and 7 bits/dim of 8×8 grey; WebP's take 25. The coders know
neither the other images nor ``levels``: values below 17 are written as they are.
"""

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image, features
from torch import Tensor

from diffusion_density.machine.errors import InputError

CODERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "png": {"format": "PNG", "optimize": True, "compress_level": 9},
        "webp": {"format": "WEBP", "lossless": True, "quality": 100, "method": 2, "exact": True},
    }
)
"""Pillow's settings for each coder, chosen for small files. WebP's method 6 searches longest but gives larger files of
32×32 images: 4.71 bits/dim on 500 images of CIFAR-10, against 4.57 with method 2 (libwebp 1.6.0)."""


def bits_per_dim(images: UInt8[Tensor, "n c h w"], coder: str) -> Float[Tensor, " n"]:
    """Size of each image's file in bits, divided by the number C H W of its values.

    Args:
        images: (N, C, H, W) uint8 with one channel (grey) or three (RGB); may be memory-mapped or on any device.
        coder: one of :data:`CODERS`.

    Returns:
        (N,) bits/dim in double precision on the CPU, overhead of the file format included (see the top of this module).
        WebP has no grey images: a grey image is coded as RGB with equal channels, and its size is divided by H W.

    Raises:
        InputError: for an unknown coder, a Pillow without it, or a number of channels other than one or three.
    """
    dimension = images[0].numel() if len(images) else 1
    sizes = [len(encode(image, coder)) for image in images]
    return 8 * torch.tensor(sizes, dtype=torch.float64) / dimension


def encode(image: UInt8[Tensor, "c h w"], coder: str) -> bytes:
    """The file of one image (C, H, W), without loss.

    Raises:
        InputError: as :func:`bits_per_dim`.
    """
    if coder not in CODERS:
        raise InputError(f"coders: no coder '{coder}'; there are {', '.join(CODERS)}")
    if coder == "webp" and not features.check("webp"):
        raise InputError("coders: this Pillow was built without WebP; install a Pillow wheel from PyPI, or use png")
    if image.shape[0] not in (1, 3):
        raise InputError(f"coders: images must have 1 or 3 channels, not {image.shape[0]}")
    pixels = image.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0]) if image.shape[0] == 1 else Image.fromarray(pixels)
    if coder == "webp":
        picture = picture.convert("RGB")
    file = io.BytesIO()
    picture.save(file, **CODERS[coder])
    return file.getvalue()
