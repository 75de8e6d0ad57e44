"""Lossless coders: exact round trips, sizes that are known beforehand, and the known value of CIFAR-10."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torch import Tensor

from diffusion_density.data.coders import CODERS, bits_per_dim, encode
from diffusion_density.data.images import load
from diffusion_density.machine.errors import InputError
from repository import ROOT
from truths import seeded

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10-subset.npz"

each_coder = pytest.mark.parametrize("coder", CODERS)


def noise(channels: int, n: int = 4, levels: int = 256, side: int = 32) -> Tensor:
    return torch.randint(levels, (n, channels, side, side), generator=seeded(0), dtype=torch.uint8)


def decoded(file: bytes, channels: int) -> Tensor:
    with Image.open(io.BytesIO(file)) as picture:
        pixels = np.array(picture)
    assert pixels.dtype == np.uint8
    image = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    if channels == 1 and len(image) == 3:  # WebP has no grey
        assert (image == image[:1]).all()
        return image[:1]
    return image


@each_coder
@pytest.mark.parametrize(("channels", "levels"), [(1, 256), (3, 256), (1, 17), (3, 2)])
def test_every_image_is_read_back_exactly(coder: str, channels: int, levels: int) -> None:
    smooth = (torch.arange(32) % levels).to(torch.uint8).expand(1, channels, 32, 32)
    tall = noise(channels, 1, levels)[..., :20]
    for images in (noise(channels, levels=levels), smooth, tall):
        for image, bits in zip(images, bits_per_dim(images, coder), strict=True):
            file = encode(image, coder)
            assert torch.equal(decoded(file, channels), image)
            assert bits == 8 * len(file) / image.numel()


@each_coder
def test_no_coder_compresses_noise_and_each_compresses_a_flat_image(coder: str) -> None:
    bits = bits_per_dim(noise(3), coder)
    assert (bits.shape, bits.dtype) == ((4,), torch.float64)
    assert (bits > 7.98).all()  # WebP may drop below 8 by luck, no coder does so by 1 %
    assert (bits < 8.5).all()
    flat = bits_per_dim(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8), coder)
    assert 0 < flat.item() < 0.4


def test_the_container_of_png_is_counted() -> None:
    image = noise(1, 1, side=8)
    file = encode(image[0], "png")
    rows = torch.cat([torch.zeros(8, 1, dtype=torch.uint8), image[0, 0]], 1)  # a filter byte before each row
    stored = len(zlib.compress(rows.numpy().tobytes(), 9))
    assert Image.open(io.BytesIO(file)).mode == "L"
    assert len(file) == 57 + stored  # signature 8, header 25, data chunk 12, end 12
    assert bits_per_dim(image, "png").item() == 8 * (57 + stored) / 64


def test_each_image_is_coded_alone() -> None:
    images = torch.cat([noise(3), noise(3)])
    for coder in CODERS:
        bits = bits_per_dim(images, coder)
        assert torch.equal(bits[:4], bits[4:])
        assert torch.equal(bits[2:3], bits_per_dim(images[2:3], coder))
        assert bits_per_dim(images[:0], coder).shape == (0,)


def test_digits_are_coded_as_they_are() -> None:
    images = load("digits", Path("unused")).test[:50]
    png, webp = (bits_per_dim(images, coder).mean().item() for coder in ("png", "webp"))
    assert 57 * 8 / 64 < png < 8 + 57 * 8 / 64
    assert webp < png


@pytest.mark.skipif(not CIFAR10.is_file(), reason="needs the shared CIFAR-10 subset")
def test_webp_on_cifar10() -> None:
    test = load(f"npz:{CIFAR10}", Path("unused")).test
    assert len(test) == 500
    webp = bits_per_dim(test, "webp").mean().item()
    assert abs(webp - 4.575) < 0.02  # libwebp 1.6.0
    assert webp < bits_per_dim(test[:50], "png").mean().item() < 8


def test_an_unknown_coder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no coder 'jpeg'; there are png, webp"):
        bits_per_dim(noise(3), "jpeg")


def test_a_pillow_without_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    with pytest.raises(InputError, match="built without WebP"):
        bits_per_dim(noise(3), "webp")
    assert len(bits_per_dim(noise(3), "png")) == 4


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 channels, not 4"):
        bits_per_dim(noise(4), "png")
