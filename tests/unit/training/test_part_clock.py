"""The clock counts every second once, and the hooks come off again."""

import pytest
import torch
from torch import nn
from toy import image_server, toy_batch, toy_module

from dicm_kit.training import part_clock
from dicm_kit.training.part_clock import REST, Instruments, PartClock


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(part_clock, "time", made)
    return made


def test_a_part_takes_its_time_from_the_one_around_it(hands: Hands) -> None:
    turns: list[float] = []
    clock = PartClock(lambda: turns.append(hands.now))
    hands.now += 1
    clock.enter("step")
    hands.now += 2
    with clock.within("inner"):
        hands.now += 4
        with clock.within("innermost"):
            hands.now += 8
        assert clock.is_in("inner")
    assert not clock.is_in("inner")
    hands.now += 16
    with clock.within("inner"):
        hands.now += 32
    clock.leave("step")
    hands.now += 64
    assert clock.stop() == {REST: 65, "step": 18, "inner": 36, "innermost": 8}
    assert len(turns) == 10  # the device is waited for at every turn
    clock.start()
    hands.now += 1
    assert clock.stop() == {REST: 1}


def test_leaving_a_part_ends_what_was_entered_within(hands: Hands) -> None:
    clock = PartClock(lambda: None)
    clock.enter("backward")
    clock.enter("pictures")
    hands.now += 3
    clock.leave("backward")
    hands.now += 5
    assert clock.stop() == {REST: 5, "backward": 0, "pictures": 3}
    with pytest.raises(AssertionError, match="`pictures` was not entered"):
        clock.leave("pictures")


class Trainer:
    """As much of Lightning's as the instruments look at."""

    world_size, strategy = 1, None

    def __init__(self, module: nn.Module):
        self.lightning_module, self.profiler = module, None


def gradients(module: nn.Module, clock: PartClock | None = None) -> list[torch.Tensor]:
    module.zero_grad()
    loss = module(toy_batch(8)).logit_N.square().sum()
    if clock is None:
        loss.backward()
    else:
        with clock.within(part_clock.BACKWARD):
            loss.backward()
    return [each.grad.to_dense() for each in module.parameters() if each.grad is not None]


def test_instruments_change_nothing_and_leave_nothing() -> None:
    module = toy_module(server=image_server())
    before = gradients(module)
    clock = PartClock(lambda: None)
    instruments = Instruments(Trainer(module), module, clock)  # type: ignore[arg-type]
    instruments.attach()
    clock.start()
    assert all(torch.equal(*both) for both in zip(before, gradients(module, clock), strict=True))
    seconds = clock.stop()
    instruments.detach()
    known = {
        *(part_clock.ENCODERS, part_clock.DEDUP, part_clock.GATHER, part_clock.EMBEDDER, part_clock.INTEREST),
        *(part_clock.NET, part_clock.BACKWARD, part_clock.BACK_DEDUP, part_clock.BACK_EMBEDDER, part_clock.REST),
    }
    assert set(seconds) == known
    assert all(value > 0 for value in seconds.values())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not [name for name, each in module.named_modules() for kind in hooks if getattr(each, kind)]
    assert not [name for name, each in module.named_parameters() if each._post_accumulate_grad_hooks]
    assert "lookup" not in vars(module.server.store)
    assert "around" not in vars(module.server.exchange)


def test_the_embedders_backward_is_its_own_part(hands: Hands) -> None:
    """Time passes only inside the embedder's backward, between the gradient of its output and that of its weights."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, vectors: torch.Tensor) -> torch.Tensor:
            hands.now += 7
            return vectors.view_as(vectors)

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            hands.now += 1000
            return grad

    class SlowLayer(nn.Module):
        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            return Slow.apply(vectors)

    server = image_server()
    server.embedder.insert(1, SlowLayer())  # after the first layer
    module = toy_module(server=server)
    clock = PartClock(lambda: None)
    instruments = Instruments(Trainer(module), module, clock)  # type: ignore[arg-type]
    instruments.attach()
    clock.start()
    gradients(module, clock)
    seconds = {part: value for part, value in clock.stop().items() if value}
    instruments.detach()
    assert seconds == {part_clock.EMBEDDER: 7, part_clock.BACK_EMBEDDER: 1000}
