"""The multilayer perceptron and its stack."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import jacrev, vmap

from diffusion_density.machine.errors import InputError
from diffusion_density.networks.embeddings import FourierFeatures
from diffusion_density.networks.mlp import MLP
from truths import seeded


def network(seed: int = 0, *, skip: bool = False, frequencies: int = 4, widths: tuple[int, ...] = (16, 8)) -> MLP:
    made = MLP(3, widths, frequencies, 6, 0.5, skip=skip, generator=seeded(seed))
    with torch.no_grad():
        for parameter in made.parameters():  # biases too, so that no test passes by their being 0
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(99 + seed))
    return made.double()


def inputs(n: int = 7) -> tuple[Tensor, Tensor]:
    generator = seeded(1)
    return (
        torch.randn(n, 3, generator=generator, dtype=torch.float64),
        torch.rand(n, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_the_scale_is_the_standard_deviation_of_the_frequencies(scale: float) -> None:
    features = FourierFeatures(2, 20_000, scale, seeded(0))
    assert features.frequencies.std().item() == pytest.approx(2 * math.pi * scale, rel=0.03)
    assert features.width == 2 + 2 * 20_000
    assert not list(features.parameters())
    assert "frequencies" in features.state_dict()


def test_the_features_are_the_point_and_its_waves() -> None:
    features = FourierFeatures(3, 4, 0.5, seeded(0)).double()
    x, _ = inputs()
    phase = x @ features.frequencies
    torch.testing.assert_close(features(x), torch.cat([x, phase.sin(), phase.cos()], 1), rtol=0, atol=0)
    assert FourierFeatures(3, 0, 0.5).double()(x).tolist() == x.tolist()


def test_a_network_is_its_formula() -> None:
    net = network()
    x, s = inputs()
    first, second, last = net.layers
    silu = torch.nn.functional.silu
    hidden = net.embed_point(x) @ first.weight.T + net.embed_time(s[:, None]) @ net.from_time.weight.T
    hidden = silu(hidden + net.from_time.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(net(x, s), silu(hidden) @ last.weight.T + last.bias, rtol=1e-12, atol=1e-12)
    assert first.bias is None  # the time's part has one


def test_weights_start_as_truncated_lecun_normals() -> None:
    layer = MLP(2, (400, 300), 0, 1, 0.1, generator=seeded(0)).layers[1]
    assert layer.weight.abs().max().item() <= 2 * 400**-0.5
    assert layer.weight.std().item() == pytest.approx(0.8796 * 400**-0.5, rel=0.01)
    assert layer.bias.abs().max() == 0


def test_rows_do_not_see_each_other() -> None:
    net = network()
    x, s = inputs()
    each = torch.cat([net(x[i : i + 1], s[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(net(x, s), each, rtol=1e-12, atol=1e-12)


def test_one_time_for_all_rows_is_a_time_for_each() -> None:
    net = network()
    x, _ = inputs()
    once = torch.tensor(0.3, dtype=torch.float64).expand(len(x))
    torch.testing.assert_close(net(x, once), net(x, once.clone()), rtol=1e-12, atol=1e-12)
    assert (net(x, once) - net(x, once + 0.2)).abs().min() > 1e-6  # and the time matters


def test_the_skip_subtracts_the_point() -> None:
    x, s = inputs()
    torch.testing.assert_close(network(skip=True)(x, s), network()(x, s) - x, rtol=1e-13, atol=1e-13)
    assert [*dict(network(skip=True).named_parameters())] == [*dict(network().named_parameters())]


def test_equal_seeds_give_equal_weights_whatever_the_global_state() -> None:
    states = []
    for _ in range(2):
        torch.rand(3)
        states.append(MLP(3, (8,), 4, 4, 0.1, generator=seeded(4)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = MLP(3, (8,), 4, 4, 0.1, generator=seeded(5)).state_dict()
    differing = [name for name in other if not torch.equal(other[name], states[0][name])]
    assert {"layers.0.weight", "from_time.weight", "embed_point.frequencies"} <= set(differing)


@pytest.mark.parametrize("frequencies", [0, 4])
def test_a_stack_is_its_members(frequencies: int) -> None:
    members = [network(seed, skip=seed % 2 == 0, frequencies=frequencies) for seed in range(4)]
    stack = MLP.stack(members)
    x, s = inputs(20)
    x, s = x.reshape(4, 5, 3), s.reshape(4, 5)
    expected = torch.stack([net(*rows) for net, *rows in zip(members, x, s, strict=True)])
    torch.testing.assert_close(stack(x, s), expected, rtol=1e-12, atol=1e-12)
    for given, taken in zip(members, stack.members(), strict=True):
        torch.testing.assert_close(taken(x[0], s[0]), given(x[0], s[0]), rtol=0, atol=0)
    torch.testing.assert_close(stack[1:3](x[1:3], s[1:3]), expected[1:3], rtol=1e-12, atol=1e-12)


def test_what_is_stacked_or_taken_shares_no_memory() -> None:
    members = [network(0), network(1)]
    before = [parameter.clone() for parameter in members[0].parameters()]
    stack = MLP.stack(members)
    taken = stack[0]
    with torch.no_grad():
        for parameter in (*stack.parameters(), *taken.parameters()):
            parameter.zero_()
    assert all(torch.equal(*pair) for pair in zip(before, members[0].parameters(), strict=True))
    stack = MLP.stack(members)
    taken = stack[0]
    with torch.no_grad():
        next(taken.parameters()).zero_()
    assert next(stack.parameters()).abs().min() > 0


def test_a_stack_can_be_trained() -> None:
    stack = MLP.stack([network(0), network(1)])
    x, s = inputs(10)
    stack(x.reshape(2, 5, 3), s.reshape(2, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape and p.shape[0] == 2 for p in stack.parameters())


@pytest.mark.parametrize("other", [{"widths": (16, 9)}, {"widths": (16,)}, {"frequencies": 5}])
def test_networks_of_different_shapes_are_not_stacked(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="different shapes"):
        MLP.stack([network(), network(**other)])


def test_a_conditional_network_takes_its_context_as_features_row_by_row() -> None:
    conditional = MLP(3, (16,), 4, 6, 0.5, context=2, skip=True, generator=seeded(3)).double()
    x, s = inputs(12)
    context = torch.randn(12, 2, generator=seeded(4), dtype=torch.float64)
    found = conditional(x, s, context)
    assert found.shape == (12, 3)
    for index in range(12):
        row = slice(index, index + 1)
        torch.testing.assert_close(found[row], conditional(x[row], s[row], context[row]))
    assert (conditional(x, s, context.flip(0)) - found).abs().min(0).values.min() > 1e-6
    first = conditional.layers[0].weight[:, -2:]  # the last columns are the context's
    with torch.no_grad():
        first.zero_()
    torch.testing.assert_close(conditional(x, s, context), conditional(x, s, context.flip(0)), rtol=0, atol=0)


def test_a_stack_side_by_side_gives_equal_shares_of_the_rows_to_its_members() -> None:
    members = [network(0), network(1)]
    x, s = inputs(10)
    expected = torch.cat([net(*rows) for net, *rows in zip(members, x.split(5), s.split(5), strict=True)])
    torch.testing.assert_close(MLP.stack(members).side_by_side()(x, s), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("frequencies", "widths"), [(0, (16,)), (4, (16, 8)), (4, (8, 16, 8))])
def test_the_trace_is_that_of_the_jacobian(frequencies: int, widths: tuple[int, ...], skip: bool) -> None:
    net = network(skip=skip, frequencies=frequencies, widths=widths).double()
    x, s = (part.double() for part in inputs())
    jacobian = vmap(jacrev(lambda point: net(point[None], s[:1])[0]))(x)
    value, trace = net.with_trace(x, s[:1])
    torch.testing.assert_close(value, net(x, s[:1].expand(len(x))))
    torch.testing.assert_close(trace, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    assert trace.std() > 0.01  # it depends on the point
