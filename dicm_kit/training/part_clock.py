"""Where the time of a training step goes: a clock, and the hooks that turn it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import Tensor, nn

from dicm_kit.images.server import ImageServer
from dicm_kit.training.module import CtrModule

READING = "reading the batch"
TO_DEVICE = "batch to the device"
ENCODERS = "encoders"
DEDUP = "pictures: dedup, types, back to references"
LEG = "exchange: {}".format
WAIT = "pictures: waiting for what was begun ahead"
GATHER = "pictures: gather"
BACKBONE = "pictures: backbone"
EMBEDDER = "pictures: embedder"
INTEREST = "interest"
NET = "net"
LOSS = "loss, rest of the forward"
BACK_DEDUP = "backward: references to distinct"
BACK_EMBEDDER = "backward: embedder"
BACK_BACKBONE = "backward: backbone"
BACKWARD = "backward: all else"
AVERAGING = "averaging gradients, what is left to wait"
OPTIMIZER = "optimizer"
REST = "rest: Lightning, counters"

PARTS = (
    *(READING, TO_DEVICE, ENCODERS, WAIT, DEDUP, LEG("sizes"), LEG("keys"), GATHER, BACKBONE, EMBEDDER),
    LEG("vectors"),
    *(INTEREST, NET, LOSS, BACKWARD, BACK_DEDUP, LEG("gradients"), BACK_EMBEDDER, BACK_BACKBONE, AVERAGING),
    *(OPTIMIZER, REST),
)
"""In the order of a step."""

PICTURE_PARTS = frozenset({DEDUP, GATHER, EMBEDDER, BACK_DEDUP, BACK_EMBEDDER})
"""What has the floor as its floor; a trained backbone and the exchange are apart."""


class PartClock:
    """Splits the time that passes among parts, and leaves none out: a part inside another takes its time from it."""

    def __init__(self, wait: Callable[[], None]):
        """`wait` is called at every turn: it lets a device finish what belongs to the part that ends."""
        self._wait = wait
        self.start()

    def start(self) -> None:
        """Begins at zero, with `REST`."""
        self.seconds: dict[str, float] = {}
        self._inside = [REST]
        self._wait()
        self._since = time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Returns the seconds of each part since `start`."""
        self._charge()
        return self.seconds

    def enter(self, part: str) -> None:
        """Charges from now on to `part`."""
        self._charge()
        self._inside.append(part)

    def leave(self, part: str) -> None:
        """Charges from now on to what `part` was entered from; ends what was entered within it and not left."""
        self._charge()
        assert part in self._inside, f"`{part}` was not entered"
        while self._inside.pop() != part:
            pass

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Enters and leaves."""
        self.enter(part)
        yield
        self.leave(part)

    def is_in(self, part: str) -> bool:
        """Returns whether `part` was entered and not left."""
        return part in self._inside

    def _charge(self) -> None:
        self._wait()
        now = time.perf_counter()
        part = self._inside[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


class Instruments:
    """Turns the clock at every part of a training step of a `CtrModule`; nothing is left on it when detached."""

    def __init__(self, trainer: pl.Trainer, module: CtrModule, clock: PartClock):
        self._trainer, self._module, self._clock = trainer, module, clock
        self._handles: list[Any] = []

    def attach(self) -> None:
        """Puts the hooks on."""
        module, server = self._module, self._module.server
        self._trainer.profiler = _Actions(self._clock, self._trainer)  # type: ignore[attr-defined]
        parts: dict[nn.Module, str] = {module.net: NET}
        parts |= dict.fromkeys(module.interest.values(), INTEREST)
        for of_side in module.encoders.values():
            assert isinstance(of_side, nn.ModuleDict), "encoders are kept by side"
            parts |= dict.fromkeys(of_side.values(), ENCODERS)
        if isinstance(server, ImageServer):
            parts |= {server: DEDUP, server.embedder: EMBEDDER}
            if server.backbone is not None:
                parts[server.backbone] = BACKBONE
            server.exchange.around = self._around
        for part_module, part in parts.items():
            self._handles.append(part_module.register_forward_pre_hook(partial(self._enter, part)))
            self._handles.append(part_module.register_forward_hook(partial(self._leave, part)))
        if isinstance(server, ImageServer):
            self._in_backward(server)
        if self._trainer.world_size > 1:
            trained = [each for each in module.parameters() if each.requires_grad]
            self._after_gradients_of(trained, lambda: self._clock.enter(AVERAGING))

    def detach(self) -> None:
        """Takes them off."""
        self._trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        server = self._module.server
        if isinstance(server, ImageServer):
            del server.exchange.around  # the class's own is there again

    def _enter(self, part: str, *_: Any) -> None:
        self._clock.enter(part)

    def _leave(self, part: str, *_: Any) -> None:
        self._clock.leave(part)

    def _around(self, leg: str) -> AbstractContextManager[object]:
        """The exchange of the step's own thread: what is done ahead of a step takes none of its time."""
        parts = {"wait": WAIT, "lookup": GATHER}
        # computing is no leg of its own: backbone and embedder are
        return nullcontext() if leg == "compute" else self._clock.within(parts.get(leg, LEG(leg)))

    def _in_backward(self, server: ImageServer) -> None:
        """Backward runs against the order of forward: what uses pictures, then server, embedder, backbone, the rest."""

        def enter(part: str, grad: Tensor) -> None:
            if not self._clock.is_in(part):  # target and history both lead into the server
                self._clock.enter(part)

        def of_pictures(_: nn.Module, asked: Any, pictures: Any) -> None:
            for vectors in (pictures.target_NI, pictures.history_GLI):
                if vectors is not None and vectors.requires_grad:
                    vectors.register_hook(partial(enter, BACK_DEDUP))

        def of_embedder(_: nn.Module, asked: Any, vectors: Tensor) -> None:
            if vectors.requires_grad:
                vectors.register_hook(partial(enter, BACK_EMBEDDER))

        self._handles.append(server.register_forward_hook(of_pictures))
        self._handles.append(server.embedder.register_forward_hook(of_embedder))
        trained = [each for each in (server.backbone or nn.Module()).parameters() if each.requires_grad]

        def embedder_done() -> None:
            self._clock.leave(BACK_EMBEDDER)
            if trained:
                self._clock.enter(BACK_BACKBONE)
            else:
                self._clock.leave(BACK_DEDUP)

        self._after_gradients_of(list(server.embedder.parameters()), embedder_done)
        self._after_gradients_of(trained, lambda: self._clock.leave(BACK_DEDUP))

    def _after_gradients_of(self, parameters: list[nn.Parameter], done: Callable[[], None]) -> None:
        """Calls `done` in each backward when the last of the parameters has its gradient."""
        missing = {id(each) for each in parameters}
        ids = frozenset(missing)

        def has_gradient(parameter: Tensor) -> None:
            missing.discard(id(parameter))
            if not missing:
                missing.update(ids)
                done()

        self._handles += [each.register_post_accumulate_grad_hook(has_gradient) for each in parameters]


class _Actions(Profiler):
    """Lightning tells a profiler what it does; some of that is a part of the step."""

    def __init__(self, clock: PartClock, trainer: pl.Trainer):
        super().__init__()
        self._clock = clock
        strategy = f"[Strategy]{type(trainer.strategy).__name__}"
        self._parts = {
            "[_TrainingEpochLoop].train_dataloader_next": READING,
            f"{strategy}.batch_to_device": TO_DEVICE,
            f"{strategy}.training_step": LOSS,
            f"{strategy}.backward": BACKWARD,
            f"[LightningModule]{type(trainer.lightning_module).__name__}.optimizer_step": OPTIMIZER,
        }

    def start(self, action_name: str) -> None:
        if action_name in self._parts:
            self._clock.enter(self._parts[action_name])

    def stop(self, action_name: str) -> None:
        if action_name in self._parts:
            self._clock.leave(self._parts[action_name])
