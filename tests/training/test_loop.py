"""Training of image models: it learns, and ends the same however it was stopped, divided or continued."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import image_training
from diffusion_density.density.images.dequantization import to_unit
from diffusion_density.machine.devices import OneDevice, open_devices
from diffusion_density.machine.errors import InputError, NumericalError
from diffusion_density.training.averaged_adamw import AveragedAdamW
from diffusion_density.training.flow_matching import FlowMatching
from diffusion_density.training.loop import Trained, train_images
from diffusion_density.training.passes import ImageTraining
from diffusion_density.training.randomness import shuffled_rows
from image_training import OBJECTIVE, SETTINGS, squares, tensors, train
from truths import seeded


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(checkpoints: Path) -> Trained:
    """The finished run."""
    return train(checkpoints)


@pytest.fixture
def finished(checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a finished run."""
    return Path(shutil.copytree(checkpoints, tmp_path / "finished"))


def assert_same_bits(one: Trained, other: Trained) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))


class Watched(FlowMatching):
    """The objective, with a word at each call: its number and its arguments."""

    def __init__(self, word: Callable[..., Tensor | None]) -> None:
        super().__init__(OBJECTIVE.schedule)
        self.calls = 0
        self.word = word

    def __call__(self, network: Any, x: Tensor, u: Tensor, noise: Tensor, probe: Tensor | None = None) -> Tensor:  # noqa: ANN401
        self.calls += 1
        said = self.word(self.calls, x, u, noise)
        loss = super().__call__(network, x, u, noise, probe)
        return loss if said is None else loss * said


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = train(tmp_path, settings={"steps": 40, "batch_size": 16, "clip": None, "learning_rate": 1e-2}).losses
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()


def test_a_run_repeats_itself_and_leaves_network_and_global_generator_alone(
    undisturbed: Trained, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    network = image_training.network()
    before = [value.clone() for value in network.parameters()]
    state = torch.get_rng_state()
    again = train_images(network, squares(), OBJECTIVE, SETTINGS, tmp_path, micro_batch=8, progress=True)
    assert_same_bits(undisturbed, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert not again.network.training
    assert len(again.losses) == SETTINGS.steps


def test_a_finished_run_is_not_trained_again(undisturbed: Trained, finished: Path) -> None:
    assert steps_in(finished) == [8, 12]
    assert_same_bits(undisturbed, train(finished, objective=Watched(lambda *_: pytest.fail("trained again"))))


def test_sigterm_writes_a_checkpoint_and_goes_through(undisturbed: Trained, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    def word(call: int, *_: Tensor) -> None:
        if call == 6:
            signal.raise_signal(signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stopped):
            train(tmp_path, objective=Watched(word))
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert steps_in(tmp_path) == [4, 6]
    assert_same_bits(undisturbed, train(tmp_path))


def test_an_unreadable_checkpoint_falls_back_to_the_one_before(
    undisturbed: Trained, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latest = finished / "step-000000012.safetensors"
    latest.write_bytes(latest.read_bytes()[:-100])
    watched = Watched(lambda *_: None)
    assert_same_bits(undisturbed, train(finished, objective=watched))
    assert watched.calls == 4
    assert "step-000000012.safetensors" in caplog.text
    assert "going back" in caplog.text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": {"learning_rate": 3e-3}}, "training.learning_rate: 0.001 there, 0.003 here"),
        ({"settings": {"steps": 13}}, "training.steps: 12 there, 13 here"),
        ({"objective": FlowMatching(OBJECTIVE.schedule, "noise")}, "objective.prediction: velocity there, noise here"),
        ({"identity": {"network": {"width": 9}}}, "network: None there"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(finished: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"is of another training run .*{named}"):
        train(finished, **changed)
    assert steps_in(finished) == [8, 12]


def test_a_checkpoint_of_another_network_is_refused(finished: Path) -> None:
    with pytest.raises(InputError, match="not of this network"):
        train_images(nn.Conv2d(1, 1, 1), squares(), OBJECTIVE, SETTINGS, finished)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(undisturbed: Trained, tmp_path: Path) -> None:
    poison = Watched(lambda call, *_: torch.tensor(float("nan")) if call == 7 else None)
    with pytest.raises(NumericalError, match=r"the loss is nan at step 7"):
        train(tmp_path, objective=poison)
    assert steps_in(tmp_path) == [4]
    assert_same_bits(undisturbed, train(tmp_path))


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, s: Tensor) -> Tensor:
            return x * s[:, None, None, None] + self.weight.sqrt()

    with pytest.raises(NumericalError, match=r"the gradient is (inf|nan) at step 1"):
        train_images(Steep(), squares(), OBJECTIVE, SETTINGS, tmp_path)


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    settings = {"steps": 6}
    whole, four, two = (train(tmp_path / str(n), dropout=0.0, micro_batch=n, settings=settings) for n in (8, 4, 2))
    for other in (four, two):
        torch.testing.assert_close(other.losses, whole.losses, rtol=1e-5, atol=0)
        for name, value in whole.network.state_dict().items():
            torch.testing.assert_close(other.network.state_dict()[name], value, rtol=1e-3, atol=1e-4)


class Rank(OneDevice):
    """One of two processes, without the other."""

    world_size = 2

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.global_rank = rank


def recorded(folder: Path, rank: int | None = None, **settings: object) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Images, uniform numbers and noise of each step."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    watched = Watched(lambda _, x, u, noise: seen.append((x.clone(), u.clone(), noise.clone())))
    devices = OneDevice() if rank is None else Rank(rank)
    train(folder, objective=watched, settings=settings, devices=devices)
    return seen


def test_processes_share_the_draws_of_one(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "whole", steps=3)
    parts = [recorded(tmp_path / str(rank), rank, steps=3) for rank in range(2)]
    for together, even, odd in zip(whole, *parts, strict=True):
        for all_rows, even_rows, odd_rows in zip(together, even, odd, strict=True):
            assert torch.equal(all_rows[0::2], even_rows)
            assert torch.equal(all_rows[1::2], odd_rows)
        assert torch.equal((together[1] * 8).long(), torch.arange(8)), "each of the strata has one time"


def test_flips_mirror_half_of_the_images(tmp_path: Path) -> None:
    plain = torch.cat([x for x, _, _ in recorded(tmp_path / "plain", flips=False)])
    flipped = torch.cat([x for x, _, _ in recorded(tmp_path / "flipped", flips=True)])
    same, mirrored = ((flipped == of).flatten(1).all(1) for of in (plain, plain.flip(3)))
    assert bool((same | mirrored).all())
    assert 0.3 < mirrored.double().mean() < 0.7
    rows = shuffled_rows(len(squares().train), SETTINGS.seed, 0, len(plain))
    assert torch.equal(plain, to_unit(squares().train[rows], 17))


def test_independent_times_are_not_stratified(tmp_path: Path) -> None:
    times = torch.stack([u for _, u, _ in recorded(tmp_path, low_discrepancy=False, steps=3)])
    assert not torch.equal((times * 8).long(), torch.arange(8).expand(len(times), 8))


def test_each_epoch_has_every_image_once_in_its_own_order() -> None:
    rows = shuffled_rows(10, 0, 0, 30).view(3, 10)
    assert torch.equal(rows.sort().values, torch.arange(10).expand(3, 10))
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(shuffled_rows(10, 0, 7, 16), rows.flatten()[7:23])
    assert not torch.equal(shuffled_rows(10, 1, 0, 10), rows[0])


def test_snapshots_are_the_averaged_networks_of_their_steps(undisturbed: Trained, tmp_path: Path) -> None:
    taken: dict[int, nn.Module] = {}
    train(tmp_path, snapshots=(1, 12), on_snapshot=taken.__setitem__)
    assert list(taken) == [1, 12]
    final = taken[12].state_dict()
    assert all(torch.equal(value, final[name]) for name, value in undisturbed.network.state_dict().items())


def test_the_second_order_objective_trains(undisturbed: Trained, tmp_path: Path) -> None:
    second = train(tmp_path, objective=FlowMatching(OBJECTIVE.schedule, trace_weight=0.1))
    assert bool(second.losses.isfinite().all())
    assert second.losses[0] > undisturbed.losses[0]


def test_bfloat16_is_close_to_single_precision(tmp_path: Path, undisturbed: Trained) -> None:
    losses = train(tmp_path, settings={"bfloat16": True}).losses
    assert not torch.equal(losses, undisturbed.losses)
    torch.testing.assert_close(losses, undisturbed.losses, rtol=0.05, atol=0)


def test_the_optimiser_is_adamw_with_averages() -> None:
    def fresh() -> nn.Module:
        layer = nn.Linear(3, 2).double()
        for value in layer.parameters():
            nn.init.normal_(value, generator=seeded(1))
        return layer

    ours, theirs = fresh(), fresh()
    optimiser = AveragedAdamW(ours, weight_decay=0.1, ema=0.5)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    history = []
    for step in range(3):
        x = torch.randn(5, 3, generator=seeded(step), dtype=torch.float64)
        for group in reference.param_groups:
            group["lr"] = 0.1 * (step + 1)
        for network in (ours, theirs):
            network(x).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        reference.step()
        reference.zero_grad()
        assert optimiser.step(0.1 * (step + 1), clip=0.5) > 0.5
        history.append(theirs.weight.detach().clone())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    expected = (history[0] + 2 * history[1] + 4 * history[2]) / 7
    torch.testing.assert_close(optimiser.averaged(ours).weight, expected, check_dtype=False)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = ImageTraining(steps=100, batch_size=1, learning_rate=1.0, warmup=10, cosine=True)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(50) == pytest.approx(0.5)
    assert settings.rate(99) < 0.001
    constant = ImageTraining(steps=100, batch_size=1, learning_rate=1.0, warmup=0)
    assert constant.rate(0) == constant.rate(99) == 1.0


def test_what_cannot_be_shared_or_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 7 can't be shared by 2 processes"):
        train(tmp_path, settings={"batch_size": 7}, devices=Rank(0))
    with pytest.raises(InputError, match="'cpu' or 'cuda'"):
        open_devices("abacus")
    with pytest.raises(InputError, match="at least one device"):
        open_devices("cpu", 0)
    with pytest.raises(InputError, match="999 GPUs are asked for"):
        open_devices("cuda", 999)
    assert open_devices().world_size == 1
