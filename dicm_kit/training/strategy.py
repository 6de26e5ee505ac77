"""`image_server`: Lightning's `ddp`, with the pictures shared out over the ranks (the paper's AMS, section 5)."""

import atexit
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.nn.parallel import DistributedDataParallel

from dicm_kit.errors import DicmError, RankError
from dicm_kit.exchange.heartbeat import Heartbeat
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.features.tables import sparse_parameters
from dicm_kit.images.server import ImageServer
from dicm_kit.training.launcher import PatientLauncher
from dicm_kit.training.module import CtrModule
from dicm_kit.training.sparse_gradients import average_sparse, share_overflow

NAME = "image_server"
"""In Lightning's registry, and in a recipe's `trainer.strategy`."""
_STAGES = {
    "train": "reading",  # what is between the steps
    "validate": "validation",
    "sanity_check": "validation",
    "test": "test",
    "predict": "prediction",
}
_NEWS = 3.0
"""Seconds for the news to come that another rank has gone."""
_LAST_WISH = 2.0
"""Seconds for the loggers to write what waits."""


class ImageServerStrategy(DDPStrategy):
    """`ddp` for every parameter; and every `ImageServer` of the module gets its partitions and a group of its own.

    `Trainer(strategy="image_server")` after an import of this file, or `Trainer(strategy=ImageServerStrategy())`.
    Everything is as with `ddp` but where a picture is looked up and embedded: at its owner, once per step. Its
    gradient there is the sum over all ranks, so the mean over ranks that DDP makes of the embedder's gradients is
    what `ddp` would give: docs/explanation/image_server.md has the derivation.
    DDP arranges its buckets anew after its first step, and with them the order of sums, so that a resumed run would
    not be bit-identical. Here that is done before the first step, by two steps without data.
    """

    def __init__(self, silence_timeout: float = 60.0, **options: Any):
        """Takes what `DDPStrategy` takes, and how many seconds after a rank's last sign of life all others end."""
        super().__init__(**options)
        self._silence_timeout = silence_timeout
        self._groups: list[torch.distributed.ProcessGroup] = []
        self._table_group: torch.distributed.ProcessGroup | None = None
        self._replicated: list[torch.nn.Parameter] = []
        self._sharded: list[torch.nn.Parameter] = []
        self._averaged: list[torch.nn.Parameter] = []  # by DDP
        """Id tables that every rank has whole."""
        self._heartbeat: Heartbeat | None = None
        self._trainer: pl.Trainer | None = None
        self._phase = ""
        self._has_failed = False

    # --- ranks that fall silent ---

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if self._start_method == "popen":
            environment = self.cluster_environment
            assert environment is not None, "Lightning sets it first"
            self._launcher = PatientLauncher(
                environment, self.num_processes, self.num_nodes, self._silence_timeout, self._explain
            )

    def setup_environment(self) -> None:
        """Makes the process group, and lets all ranks hear each other from here until `teardown`."""
        super().setup_environment()
        atexit.register(self._end)
        self._heartbeat = Heartbeat.meet(self._address(), self._silence_timeout, self._where, self._give_up)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Says to the other ranks what this one does meanwhile; after an error it stays said."""
        before, self._phase = self._phase, name
        yield
        self._phase = before

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """`ddp`'s."""
        with self.phase("forward"):
            return super().training_step(*args, **kwargs)

    def backward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """`ddp`'s; then the gradients of replicated id tables are averaged, too.

        Here, and not before the optimizer's step: in 16-mixed all ranks must find the same overflows, those in the rows
        of sharded tables among them.
        """
        with self.phase("backward"):
            loss = super().backward(*args, **kwargs)
            if self._replicated:
                assert self._table_group is not None, "`setup` comes first"
                average_sparse(self._replicated, self._table_group)
            if self._sharded and getattr(self.precision_plugin, "scaler", None) is not None:
                assert self._table_group is not None, "`setup` comes first"
                share_overflow(self._sharded, self._averaged[0], self._table_group)
            return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """`ddp`'s."""
        with self.phase("optimizer"):
            return super().optimizer_step(*args, **kwargs)

    def _where(self) -> str:
        trainer = self._trainer
        if trainer is None:
            return "the start"
        module = trainer.lightning_module
        leg = next((server.leg for server in _servers(module) if server.leg), "")
        doing = self._phase or _STAGES.get(str(trainer.state.stage and trainer.state.stage.value), "start")
        return f"step {trainer.global_step}, {doing}" + (f", exchange of {leg}" if leg else "")

    def _end(self) -> None:
        """Ends gloo's threads before the interpreter goes, as Lightning does with NCCL's; unless one may be stuck."""
        if not self._has_failed and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _explain(self, error: BaseException) -> RankError | None:
        """Returns what a rank's exception comes from, where that is another rank; tells the others of its own."""
        self._has_failed = True
        heartbeat = self._heartbeat
        if heartbeat is None:
            return None
        # What a collective raises when a rank has gone is a RuntimeError, and the news of it may be on the way.
        blame = heartbeat.blame(_NEWS if isinstance(error, RuntimeError) else 0)
        if blame is None or isinstance(error, (DicmError, KeyboardInterrupt)):
            said = str(error).strip().partition("\n")[0]
            heartbeat.close(f"{type(error).__name__}: {said}")
            return None
        heartbeat.close()
        return self._end_by(blame)

    def _give_up(self, blame: str) -> None:
        """Ends this process, whose main thread waits in a collective for ever; called by the heartbeat's thread."""
        sys.stderr.write(f"{RankError.__name__}: {self._end_by(blame)}\n")  # in one piece: ranks share the terminal
        sys.stderr.flush()
        saving = threading.Thread(target=self._save_logs, daemon=True)
        saving.start()
        saving.join(_LAST_WISH)
        os._exit(RankError.exit_code)

    def _end_by(self, blame: str) -> RankError:
        assert self._heartbeat is not None, "it has found out"
        if isinstance(self._launcher, PatientLauncher):
            first = self.node_rank * self.num_processes
            self._launcher.kill_silent(rank - first for rank in self._heartbeat.silent)
        todo = "See that rank's own output and its machine's log. Go on from the last checkpoint: --resume."
        return RankError(f"rank {self.global_rank}: {blame}", todo=todo)

    def _take_over_sigterm(self, trainer: pl.Trainer) -> None:
        """A training stops after its step, on all ranks together, as with Ctrl-C.

        Lightning's handler broadcasts: in the middle of whatever the ranks are in, and to those that have gone.
        """
        signals = trainer._signal_connector

        def handle(signum: int, frame: Any) -> None:
            if self._launcher is not None:
                self._launcher.kill(signum)  # those that this process has started
            module = trainer.lightning_module
            if trainer.training and isinstance(module, CtrModule):
                module.stop_requested = True
            else:
                signals.received_sigterm = True

        signals._sigterm_notifier_fn = handle  # type: ignore[method-assign, assignment]

    def _save_logs(self) -> None:
        for logger in self._trainer.loggers if self._trainer is not None else ():
            logger.save()

    def _address(self) -> str:
        """Returns the address by which other machines reach this one: that of the way to the main one."""
        environment = self.cluster_environment
        assert environment is not None, "the process group was made by it"
        main = environment.main_address
        if self.node_rank == 0:
            return main
        family, kind, *_, address = socket.getaddrinfo(main, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:  # nothing is sent
            probe.connect(address)
            return str(probe.getsockname()[0])

    # --- pictures ---

    def setup(self, trainer: pl.Trainer) -> None:
        """Makes the groups and shares the pictures out, on every rank, before DDP is wrapped round the module."""
        self._trainer = trainer
        self._take_over_sigterm(trainer)
        self._leave()
        module = self.lightning_module
        assert module is not None, "Lightning connects the module first"
        for server in _servers(module):
            server.spread(self._new_group(), self._new_group("gloo"))  # the second for tensors on CPU, everywhere
        sharded = sharded_tables(module)
        group = self._new_group()
        ahead = self._new_group("gloo") if sharded else None
        for table in sharded.values():
            table.hold(group, ahead)
        apart = {id(table.weight) for table in sharded.values()}
        self._replicated = [each for each in sparse_parameters(module) if id(each) not in apart]
        self._table_group = group
        self._sharded = [table.weight for table in sharded.values()]
        of_tables = apart | {id(each) for each in self._replicated}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            module, [name for name, each in module.named_parameters() if id(each) in of_tables]
        )
        self._averaged = [each for each in module.parameters() if each.requires_grad and id(each) not in of_tables]
        super().setup(trainer)
        for each in self._replicated:  # as DDP does with what it averages; on their device by now
            torch.distributed.broadcast(each.detach(), src=0, group=group)

    def _new_group(self, backend: str | None = None) -> torch.distributed.ProcessGroup:
        backend = backend or self._get_process_group_backend()
        group = torch.distributed.new_group(backend=backend, timeout=self._timeout)
        assert isinstance(group, torch.distributed.ProcessGroup), "every rank is in it"
        self._groups.append(group)
        return group

    def configure_ddp(self) -> None:
        """Wraps the module, and lets DDP settle its buckets."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel), "wrapped above"
        _settle_buckets(self.model)

    def teardown(self) -> None:
        """Leaves the groups; `ImageServer.gather` makes the module usable on one rank."""
        super().teardown()
        self._leave()
        if self._heartbeat is not None:
            self._heartbeat.close()
        self._heartbeat = self._trainer = None
        self._phase = ""

    def _leave(self) -> None:
        module = self.lightning_module
        for server in _servers(module) if module is not None and self._groups else ():
            server.part()
        for group in self._groups:
            torch.distributed.destroy_process_group(group)
        self._groups, self._table_group = [], None


def _settle_buckets(ddp: DistributedDataParallel) -> None:
    """Runs two steps whose loss is 0 * every parameter: DDP notes an order in the first and takes it in the second.

    Collective. No gradient stays behind.
    """
    module = ddp.module
    ignored = set(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    trained = [each for name, each in module.named_parameters() if each.requires_grad and name not in ignored]

    def touch() -> torch.Tensor:
        return torch.stack([0 * each.sum() for each in trained]).sum()

    module.forward = touch
    try:
        for _ in range(2):
            ddp().backward()
    finally:
        del module.forward  # the class's own is there again
    for each in trained:
        each.grad = None


def _servers(module: torch.nn.Module) -> list[ImageServer]:
    return [each for each in module.modules() if isinstance(each, ImageServer)]


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, ImageServerStrategy, description="ddp with the pictures shared out over the ranks")
