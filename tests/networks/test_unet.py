"""U-Nets: their size and cost as published, and that they are the functions that they should be."""

import math

import pytest
import torch
from torch import Tensor, nn

from diffusion_density.machine.errors import InputError
from diffusion_density.networks.blocks import (
    ChannelNorm,
    Contrasts,
    TimeEmbedding,
    fine_features,
    initialize,
    level_frequencies,
    noise_of_levels,
)
from diffusion_density.networks.cost import flops, parameters
from diffusion_density.networks.unet import FullResolutionUNet, SmallUNet

IMAGE = (1, 3, 32, 32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**arguments: object) -> SmallUNet:
    defaults = {"widths": (8, 16), "patch": 1, "contrasts": 8, "time_width": 16, "generator": generator()}
    return SmallUNet(**{**defaults, **arguments})


def full(**arguments: object) -> FullResolutionUNet:
    return FullResolutionUNet(**{"width": 64, "depth": 2, "generator": generator(), **arguments}).eval()


def stirred(network: nn.Module) -> nn.Module:
    """The network with every parameter at random, so that nothing hides behind the layers that start at zero."""
    g = generator(1)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    return network


NETWORKS = {
    "small": small,
    "small, folded": lambda: small(patch=2),
    "small, three levels of two blocks": lambda: small(widths=(8, 8, 16), blocks=2),
    "full": full,
    "full, attention everywhere": lambda: full(attention="all"),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return stirred(NETWORKS[request.param]())


def batch(size: int = 3, side: int = 8, channels: int = 3) -> tuple[Tensor, Tensor]:
    g = generator(2)
    return torch.randn(size, channels, side, side, generator=g), torch.rand(size, generator=g)


# Size and cost of the network of Zheng et al. 2023


@pytest.mark.parametrize(
    ("width", "attention", "exactly", "millions"),
    [(128, "middle", 30_577_667, 30.58), (256, "middle", 122_136_579, 122.1), (256, "all", 139_275_779, 139.3)],
)
def test_the_published_network_has_the_published_number_of_parameters(
    width: int, attention: str, exactly: int, millions: float
) -> None:
    with torch.device("meta"):
        count = parameters(FullResolutionUNet(width=width, attention=attention))
    assert count == exactly
    assert count == pytest.approx(millions * 1e6, rel=5e-4)


@pytest.mark.parametrize(("width", "published"), [(128, 26.3), (256, 105)])
def test_the_published_network_costs_the_published_multiply_adds(width: int, published: float) -> None:
    """The published figures leave out the attention among 1,024 pixels: 2 · 1024² · width and its four layers."""
    with torch.device("meta"):
        network = FullResolutionUNet(width=width)
    attention = 2 * 1024**2 * width + 4 * 1024 * width**2
    assert (flops(network, IMAGE) / 2 - attention) / 1e9 == pytest.approx(published, rel=5e-3)


def test_flops_are_counted_by_hand() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, s: Tensor) -> Tensor:
            return self.layer(x) * s[:, None, None, None]

    assert flops(Network(), (2, 3, 8, 8)) == 2 * 2 * 9 * 3 * 5 * 64
    network = full()
    assert flops(network, (4, 3, 32, 32)) == 4 * flops(network, IMAGE)
    assert layer.weight.device.type == "cpu"


def test_the_small_network_is_small() -> None:
    network = SmallUNet(generator=generator())
    assert 0.5e6 < parameters(network) < 0.8e6
    assert flops(network, IMAGE) / 2 < 120e6
    digits = SmallUNet(1, (32, 64), patch=1, frequencies=level_frequencies(17), generator=generator())
    assert digits(*batch(side=8, channels=1)).shape == (3, 1, 8, 8)


# What any network must do


def test_output_has_the_shape_and_depends_on_both_arguments(network: nn.Module) -> None:
    x, s = batch()
    out = network(x, s)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert (network(x, s + 0.1) - out).abs().max() > 1e-4
    assert (network(x + 0.1, s) - out).abs().max() > 1e-2


def test_rows_do_not_see_each_other(network: nn.Module) -> None:
    x, s = batch()
    alone = torch.cat([network(x[i : i + 1], s[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(network(x, s), alone, rtol=1e-4, atol=1e-5)


def test_one_time_for_all_is_that_time_for_each(network: nn.Module) -> None:
    x, s = batch()
    torch.testing.assert_close(network(x, s[:1].expand(3)), network(x, s[:1].repeat(3)), rtol=1e-4, atol=1e-5)


def test_memory_format_does_not_matter(network: nn.Module) -> None:
    x, s = batch()
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network(last, s), network(x, s), rtol=1e-4, atol=1e-5)


def test_every_pixel_reaches_every_pixel(network: nn.Module) -> None:
    x, s = batch(1, side=16)
    x.requires_grad_()
    (reach,) = torch.autograd.grad(network(x, s)[0, 0, 0, 0], x)
    assert (reach != 0).all()


def test_every_parameter_is_used_and_has_second_derivatives(network: nn.Module) -> None:
    """The trace objective differentiates a vector-Jacobian product."""
    x, s = batch(2)
    x.requires_grad_()
    (pulled,) = torch.autograd.grad((network(x, s) * x.detach().sign()).sum(), x, create_graph=True)
    (pulled.square().sum() + network(x, s).square().sum()).backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert unused == []


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_start_at_the_identity_or_zero_and_from_the_generator(name: str) -> None:
    x, s = batch()
    network, again = NETWORKS[name](), NETWORKS[name]()
    assert torch.equal(network(x, s), x if name.startswith("full") else torch.zeros_like(x))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), again.parameters(), strict=True))
    other = small(generator=generator(9))
    assert not torch.equal(other.stem.weight, small().stem.weight)


def test_initial_weights_keep_the_variance() -> None:
    weight = SmallUNet(generator=generator()).down[1].blocks[0].first.weight
    assert weight.std().item() == pytest.approx((96 * 9) ** -0.5, rel=0.02)


def test_a_few_steps_of_training_learn_something() -> None:
    network = small()
    x, s = batch(8)
    target = x.roll(1, dims=3) * s[:, None, None, None]
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (network(x, s) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_dropout_acts_in_training_only() -> None:
    network = stirred(small(dropout=0.5))
    x, s = batch()
    assert not torch.equal(network(x, s), network(x, s))
    network.eval()
    assert torch.equal(network(x, s), network(x, s))


# Parts


@pytest.mark.parametrize("levels", [17, 256])
def test_fine_features_see_the_noise_and_not_the_level(levels: int) -> None:
    centres = 2 * (torch.arange(levels, dtype=torch.float64) + 0.5) / levels - 1
    noise = 0.1 / levels
    features = fine_features((centres + noise).view(levels, 1, 1, 1), level_frequencies(levels)).flatten(1)
    assert features.shape == (levels, 5)
    sine, cosine = features[:, 3], features[:, 4]
    torch.testing.assert_close(sine.abs(), torch.full_like(sine, math.sin(0.1 * math.pi)), rtol=1e-6, atol=1e-9)
    assert sine.std() < 1e-9
    assert cosine.std() < 1e-9


def test_contrasts_start_blind_to_a_constant_and_spread_in_gain() -> None:
    contrasts = Contrasts(3, 6, 16, size=3)
    initialize(contrasts, generator())
    contrasts.initialize()
    time = torch.randn(1, 16, generator=generator())
    none = torch.zeros(1, 1, 1, 1)
    assert contrasts(torch.full((1, 3, 5, 5), 0.7), time, none)[..., 1:-1, 1:-1].abs().max() < 1e-4
    gains = contrasts.log_gains(time).exp()[0]
    assert gains[[0, -1]].tolist() == pytest.approx([1, math.exp(5)])
    x = torch.randn(1, 3, 5, 5, generator=generator())
    torch.testing.assert_close(contrasts(x, time, none), contrasts.filters(x) * gains[:, None, None])


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("tau", [3.02, 1.4])
def test_the_noise_of_levels_is_the_expectation_over_all_levels(levels: int, tau: float) -> None:
    sigma = 1 / (levels * tau)
    alpha = math.sqrt(1 - sigma**2)
    z = torch.linspace(-0.8, 0.8, 4001, dtype=torch.float64)
    centres = 2 * (torch.arange(levels, dtype=torch.float64) + 0.5) / levels - 1
    distances = (z[:, None] - alpha * centres) / sigma
    exact = ((-0.5 * distances**2).softmax(1) * distances).sum(1)
    noise = torch.full((1, 1, 1, 1), sigma, dtype=torch.float64)
    ours = noise_of_levels(z.view(1, 1, 1, -1), levels, noise).flatten()
    faded = math.exp(-0.5 * (math.pi * levels / 2 * sigma) ** 2)
    torch.testing.assert_close(ours, exact * faded, rtol=0, atol=1e-6)
    assert exact.abs().max() > 0.1


def test_what_is_finer_than_the_noise_fades() -> None:
    """A gain never makes the noise larger than three, and a wave keeps more than the noise leaves of what it says."""
    contrasts = Contrasts(3, 6, 16, size=3)
    initialize(contrasts, generator())
    contrasts.initialize()
    time = torch.randn(1, 16, generator=generator())
    x = torch.randn(1, 3, 5, 5, generator=generator())
    for noise in (1e-3, 0.1, 1.0):
        given = torch.full((1, 1, 1, 1), noise)
        gains = contrasts(x, time, given) / contrasts.filters(x)
        assert gains.max() * noise <= 3
        assert gains.max() * noise > 0.9 * min(3, noise * math.exp(5))
        informative = math.exp(-0.5 * (2 * math.pi * 64 * noise) ** 2)
        waves = fine_features(x, (64.0,), given)[:, 3:].square()
        amplitude = (waves[:, :3] + waves[:, 3:]).sqrt()
        assert bool((amplitude >= informative).all())
        assert bool((amplitude <= math.exp(-0.5 * (math.pi * 64 * noise) ** 2) + 1e-6).all())


def test_the_small_network_has_a_linear_part_at_once() -> None:
    """One step on its last layers alone fits noise at a noise level finer than a pixel level."""
    network = small(patch=2)
    g = generator(3)
    levels = torch.randint(0, 256, (64, 3, 8, 8), generator=g)
    noise = torch.randn(levels.shape, generator=g)
    z = 2 * (levels + 0.5) / 256 - 1 + 3e-4 * noise
    optimizer = torch.optim.LBFGS([*network.from_pixels.parameters()], max_iter=30)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (network(z, torch.zeros(64)) - noise).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert loss().item() < 0.05


def test_time_embedding_tells_near_times_apart() -> None:
    embedding = TimeEmbedding(64, 32)
    s = torch.linspace(0, 1, 1001)
    phase = s[:, None] * embedding.rates
    waves = torch.cat([phase.sin(), phase.cos()], 1)
    assert embedding.rates[[0, -1]].tolist() == pytest.approx([1000.0, 0.1])
    assert torch.pdist(waves[::50]).min() > 1
    assert (waves[1:] - waves[:-1]).norm(dim=1).min() > 0.3


def test_channel_norm_normalises_each_pixel() -> None:
    x = 3 + 2 * torch.randn(2, 64, 4, 4, generator=generator())
    y = ChannelNorm(64)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(2, 4, 4), rtol=0, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    for width in (32, 48):
        with pytest.raises(InputError, match="multiple of 32, at least 64"):
            FullResolutionUNet(width=width)
    with pytest.raises(InputError, match="8×8 are not a multiple of 16"):
        small(widths=(8, 8, 8, 8), patch=2)(*batch())
