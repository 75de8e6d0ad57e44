"""Stacked training: members as if alone, the arms' equivalence, the averaging, and what is refused."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion_density.density.ode.flow import flow
from diffusion_density.density.path_integral.plain import path_integral
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.networks.mlp import MLP
from diffusion_density.process.model import DiffusionModel
from diffusion_density.process.predictions import Prediction
from diffusion_density.process.proposals import HalfSigma
from diffusion_density.studies.density_estimators.divergences import Diffused, score_error
from diffusion_density.training import stack as stacked
from diffusion_density.training.objectives import Weighting
from diffusion_density.training.stack import Member, train_stack
from truths import PAPER_A, random_mixture, seeded

SETTINGS: dict[str, Any] = {"throws": 3, "batch_size": 8, "learning_rate": 1e-3, "ema": 0.9}


WEIGHTINGS: tuple[Weighting, ...] = ("unit", "likelihood")


def points(seed: int = 0, n: int = 32) -> Tensor:
    return random_mixture(2, seed=seed).sample(n, generator=seeded(seed))


def network(seed: int, *, skip: bool = False, widths: tuple[int, ...] = (16, 16)) -> MLP:
    return MLP(2, widths, 4, 4, 0.3, skip=skip, generator=seeded(seed)).double()


def member(
    seed: int = 0,
    prediction: Prediction = "entropy",
    weighting: Weighting = "unit",
    *,
    skip: bool = False,
    data: Tensor | None = None,
) -> Member:
    return Member(network(seed, skip=skip), prediction, weighting, points() if data is None else data, stream=seed)


def trained(members: Sequence[Member], steps: int = 12, **changed: object) -> MLP:
    """The stack after some steps."""
    *_, (step, given) = train_stack(members, PAPER_A, checkpoints=[steps], **SETTINGS | changed)
    assert step == steps
    assert given is not None
    return given


def difference(first: MLP, second: MLP) -> float:
    """The largest difference of any weight."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


MIXED = [
    member(0, "entropy"),
    member(1, "score", "likelihood"),
    member(2, "noise", data=points(1)),
    member(0, "score", skip=True),
    member(1, "score"),
]


def test_members_get_the_weights_they_would_get_alone() -> None:
    together = trained(MIXED)
    for index, one in enumerate(MIXED):
        assert difference(together[index], trained([one])[0]) < 1e-11
        assert difference(together[index], one.network) > 1e-3  # they did move


def test_members_in_single_precision_get_the_weights_they_would_get_alone() -> None:
    members = [replace(one, network=copy.deepcopy(one.network).float(), data=one.data.float()) for one in MIXED]
    together = trained(members)
    for index, one in enumerate(members):
        assert difference(together[index], trained([one])[0]) < 1e-4


def test_the_rows_of_a_pass_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(MIXED)
    monkeypatch.setattr(stacked, "ROWS_PER_PASS", 7 * len(MIXED))
    assert difference(whole, trained(MIXED)) < 1e-11


def test_equal_seeds_give_equal_bits() -> None:
    assert difference(trained(MIXED), trained(MIXED)) == 0


def test_what_makes_members_differ() -> None:
    base = member(0)
    others = [replace(base, stream=1), replace(base, data=points(1)), replace(base, network=network(1)), base]
    stack = trained([base, *others])
    differences = [difference(stack[0], stack[1 + index]) for index in range(4)]
    assert min(differences[:3]) > 1e-3
    assert differences[3] < 1e-12


def test_members_are_left_as_they_are() -> None:
    one = member(0)
    before = [value.clone() for value in one.network.state_dict().values()]
    data = one.data.clone()
    trained([one])
    assert all(torch.equal(*pair) for pair in zip(before, one.network.state_dict().values(), strict=True))
    assert torch.equal(one.data, data)


@pytest.mark.parametrize("weighting", ["unit", "likelihood"])
def test_score_matching_with_the_skip_is_entropy_matching(weighting: Weighting) -> None:
    stack = trained([member(0, "entropy", weighting), member(0, "score", weighting, skip=True)], steps=40)
    entropy, control = stack.members()
    for (name, first), second in zip(entropy.named_parameters(), control.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-10, msg=name)
    models = [DiffusionModel(entropy, PAPER_A, "entropy"), DiffusionModel(control, PAPER_A, "score")]
    x = points(5, 8)
    flows = [flow(model, x, rtol=1e-4, atol=1e-4).value for model in models]
    integrals = [path_integral(model, x, throws=32, generator=seeded(0)).value for model in models]
    for first, second in (flows, integrals):
        torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-8)
    plain = trained([member(0, "score", weighting)], steps=40)
    assert difference(plain[0], entropy) > 1e-3  # score matching without it is another thing


def test_averaged_weights_are_bias_corrected() -> None:
    decay, steps = 0.8, 6
    runs = {
        ema: [
            given
            for _, given in train_stack(
                [member(0)], PAPER_A, checkpoints=range(1, steps + 1), **SETTINGS | {"ema": ema}
            )
        ]
        for ema in (0.0, decay)
    }
    for last in range(1, steps + 1):
        averaged = runs[decay][last - 1]
        assert averaged is not None
        factors = [(1 - decay) * decay ** (last - i) / (1 - decay**last) for i in range(1, last + 1)]
        assert sum(factors) == pytest.approx(1)
        for name, value in averaged.named_parameters():
            raw = [dict(given.named_parameters())[name] for given in runs[0.0][:last] if given is not None]
            expected = sum(factor * weights for factor, weights in zip(factors, raw, strict=True))
            torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighting", ["unit", "likelihood"])
def test_training_is_the_papers_loop(weighting: Weighting) -> None:
    """Ten steps, across epochs, by torch's Adam on the mean of w ‖(e − y) σ + ε‖²/r(s) over the same throws."""
    one = member(0, weighting=weighting)
    stacked_weights = trained([one], steps=10, ema=0.0)[0]
    net = network(0)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = seeded(one.stream)
    for step in range(10):
        if step % 4 == 0:
            order = torch.randperm(32, generator=generator).split(8)
        x = one.data[order[step % 4]].repeat_interleave(3, 0)
        u = torch.rand(24, generator=generator, dtype=torch.float64)
        noise = torch.randn(24, 2, generator=generator, dtype=torch.float64)
        s = 1e-5 + (1 - 1e-5) * u
        scale = torch.ones_like(s) * (1 - 1e-5)
        if weighting == "likelihood":
            times = HalfSigma(PAPER_A, 1e-5)
            s = times.times(u)
            scale = PAPER_A.diffusion(s) / (2 * PAPER_A.sigma(s).square()) / times.density(s)
        y = PAPER_A.alpha(s)[:, None] * x + PAPER_A.sigma(s)[:, None] * noise
        adam.zero_grad()
        square = ((net(y, s) - y) * PAPER_A.sigma(s)[:, None] + noise).square().sum(1)
        (scale * square).mean().backward()
        adam.step()
    assert difference(stacked_weights, net) < 1e-7  # of steps of 1e-3
    assert difference(stacked_weights, one.network) > 5e-3


def test_training_learns() -> None:
    """The score error of both weightings after 400 steps, in nats; a noise is divided by σ, which magnifies it."""
    limits: dict[Prediction, float] = {"entropy": 0.15, "score": 0.25, "noise": 2.0}
    mixture = random_mixture(2)
    data = mixture.sample(512, generator=seeded(1), dtype=torch.float32)
    start = MLP(2, (32, 32), 8, 8, 0.1, generator=seeded(0))
    members = [Member(start, prediction, weighting, data, 0) for prediction in limits for weighting in WEIGHTINGS]
    settings: dict[str, Any] = {"throws": 4, "batch_size": 64, "learning_rate": 4e-3, "ema": 0.98}
    *_, (_, stack) = train_stack(members, PAPER_A, checkpoints=[400], **settings)
    assert stack is not None
    draws = Diffused.draw(mixture, PAPER_A, 5_000, seeded(2))
    for index, (prediction, limit) in enumerate(limits.items()):
        pair = stack.members()[2 * index : 2 * index + 2]
        untrained, *learned = (
            score_error(DiffusionModel(net, PAPER_A, prediction), draws).value for net in (start, *pair)
        )
        assert max(learned) < limit
        assert untrained > 5 * max(learned)


def test_checkpoints_come_in_any_order() -> None:
    steps = {}
    for order in ([2, 5], [5, 2]):
        given = list(train_stack([member(0)], PAPER_A, checkpoints=order, **SETTINGS))
        assert [step for step, _ in given] == [1, 2, 3, 4, 5]
        assert [stack is not None for _, stack in given] == [False, True, False, False, True]
        steps[order[0]] = given[1][1], given[4][1]
    for first, second in zip(*steps.values(), strict=True):
        assert first is not None
        assert second is not None
        assert difference(first, second) == 0
    earlier, last = steps[2]
    assert earlier is not None
    assert last is not None
    assert difference(earlier, last) > 0  # an earlier one is not changed by later steps


def test_every_sample_is_thrown_equally_often_in_an_epoch() -> None:
    data = torch.arange(12.0)[:, None]
    throws = stacked._Throws(data, dimension=data.shape[1], stream=0, batch=4, throws=2)
    epochs = [[throws.draw() for _ in range(3)] for _ in range(2)]
    orders = []
    for epoch in epochs:
        seen = torch.cat([x[:, 0] for x, _, _ in epoch])
        assert sorted(seen.tolist()) == sorted([*range(12)] * 2)
        orders.append(seen.tolist())
        u, noise = (torch.cat([draw[i] for draw in epoch]) for i in (1, 2))
        assert len(u.unique()) == len(noise.unique()) == 24  # each copy has its own time and noise
    assert orders[0] != orders[1]


def test_a_loss_that_is_not_finite_names_the_member_and_the_step() -> None:
    bad = points(1)
    bad[:] = torch.nan
    with pytest.raises(NumericalError, match="the loss of member 2 is not finite at step 1"):
        trained([member(0), member(1), member(2, data=bad), member(3)])


def test_a_loss_that_explodes_names_the_step() -> None:
    with pytest.raises(NumericalError, match="the loss of member 0 is not finite at step 2"):
        trained([member(0), member(1)], learning_rate=1e200)


@pytest.mark.parametrize(
    ("members", "changed", "message"),
    [
        ([member(0)], {"batch_size": 7}, "batch_size 7 must divide the 32 samples"),
        ([member(0)], {"batch_size": 64}, "batch_size 64 must divide the 32 samples"),
        ([member(0), member(1, data=points(0, 16))], {}, r"data of one shape, got \[\(16, 2\), \(32, 2\)\]"),
        (
            [member(0), replace(member(1), network=network(1, widths=(8, 8)))],
            {},
            "networks of different shapes can't be stacked",
        ),
    ],
)
def test_stacks_that_do_not_fit_are_refused(members: list[Member], changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(members, **changed)


def test_a_conditional_density_is_learned() -> None:
    """p(x | c) = N(c, ¼) with c of unit variance: a network that is given c beats what none can do without it."""
    generator = seeded(3)
    c = torch.randn(4096, 1, generator=generator)
    x = c + 0.5 * torch.randn(4096, 1, generator=generator)

    def after_training(context: int, data: Tensor) -> MLP:
        net = MLP(1, (32, 32), 0, 4, 0.3, context=context, generator=seeded(0))
        *_, (_, given) = train_stack(
            [Member(net, "entropy", "likelihood", data, 0)],
            PAPER_A,
            throws=2,
            batch_size=128,
            learning_rate=1e-2,
            ema=0.95,
            checkpoints=[250],
        )
        assert given is not None
        return given[0]

    test_c = torch.randn(256, 1, generator=generator)
    test_x = test_c + 0.5 * torch.randn(256, 1, generator=generator)
    conditional = DiffusionModel(after_training(1, torch.cat([x, c], dim=1)), PAPER_A, "entropy").given(test_c)
    found = flow(conditional, test_x, rtol=1e-4, atol=1e-4).value
    truth = torch.distributions.Normal(test_c, 0.5).log_prob(test_x)[:, 0]
    assert (truth - found).mean().item() == pytest.approx(0.0, abs=0.03)
    assert (truth - found).std().item() < 0.25
    alone = flow(DiffusionModel(after_training(0, x), PAPER_A, "entropy"), test_x, rtol=1e-4, atol=1e-4).value
    assert (truth - alone).mean() > 0.6  # the mutual information of x and c is ½ log 5 = 0.805 nats
