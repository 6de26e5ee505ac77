"""A pool of gloo ranks that lives for the session: processes start once, functions are sent to them.

Ranks meet through a file store, so no port can be taken. `run` gives every rank's result, or fails with every rank's
traceback; where one gives no answer the processes are replaced, since it may wait in a collective for one that failed.
"""

import atexit
import datetime
import faulthandler
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_DIED = "the process has died"
_GRACE = 4.0  # seconds that the others have after one has failed
TIMEOUT = 180  # seconds for one function; a collective that nobody answers gives up after half of it


class Ranks:
    """Up to `size` processes; `run(R, f, *args)` calls `f(rank, R, *args)` in R of them, in a process group.

    `folder` is for the files through which they meet; `timeout` seconds is what a function may take; with
    `warnings_are_errors` it may not warn.
    """

    def __init__(self, size: int, folder: Path, timeout: float = TIMEOUT, *, warnings_are_errors: bool = False):
        self.size, self.folder, self.timeout = size, folder, timeout
        self._strict = warnings_are_errors
        self._meetings = 0
        self._together = 0  # how many ranks the last call had; they stay a group while it stays
        self._members: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def start(self) -> None:
        """Starts the processes, which takes seconds, and does not wait for them; `run` does so where it must."""
        if not self._members:
            self._start()

    def run(self, num_ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Returns the ranks' results in their order.

        Function, arguments and results travel as pickles, so the function stands at the top of a module.

        Raises:
            AssertionError: a rank raised, died or gave no answer in time; with every rank's traceback, and the stack
                of those that were still at it.
        """
        assert num_ranks <= self.size, "more ranks than the pool has"
        self.start()
        store = None
        if num_ranks != self._together:
            self._meetings += 1
            self._together = num_ranks
            store = str(self.folder / f"store-{self._meetings}")
        for rank, (_, connection) in enumerate(self._members[:num_ranks]):
            with suppress(OSError):  # it has died: no answer comes, either
                connection.send_bytes(pickle.dumps((sys.path, rank, num_ranks, store, self.timeout)))
                connection.send_bytes(pickle.dumps((function, args)))
        try:
            answers = self._collect(num_ranks)
        except BaseException:  # interrupted: the answers would come when others are awaited
            self.close()
            raise
        failures = {rank: text for rank, (ok, text) in answers.items() if not ok}
        missing = [rank for rank in range(num_ranks) if rank not in answers]
        if failures or missing:
            failures |= {rank: f"no answer\n{self._stack(rank)}" for rank in missing}
            self._together = 0  # the next call has a group of its own
            if missing or _DIED in failures.values():
                self.close()
            told = "\n".join(f"--- rank {rank} of {num_ranks}\n{text}" for rank, text in sorted(failures.items()))
            raise AssertionError(f"ranks without an answer: {missing or 'none'}\n{told}")
        return [answers[rank][1] for rank in range(num_ranks)]

    def _collect(self, num_ranks: int) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        waiting = {connection: rank for rank, (_, connection) in enumerate(self._members[:num_ranks])}
        patience = self.timeout
        while waiting and (ready := wait(list(waiting), timeout=patience)):
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, OSError):
                    answers[rank] = (False, _DIED)
                if not answers[rank][0]:
                    patience = min(patience, _GRACE)  # the others may wait for it in a collective
        return answers

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(self.size):
            here, there = context.Pipe()
            arguments = (there, self._strict, str(self._stack_file(rank)))
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._members.append((process, here))

    def _stack_file(self, rank: int) -> Path:
        return self.folder / f"stack-{rank}.txt"

    def _stack(self, rank: int) -> str:
        file = self._stack_file(rank)
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    def close(self) -> None:
        """Ends the processes; the next `run` starts new ones."""
        for process, connection in self._members:
            connection.close()
            process.terminate()
        for process, _ in self._members:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
        self._members, self._together = [], 0


_shared: Ranks | None = None


def shared_ranks() -> Ranks:
    """Returns the pool of two ranks that all checks of this process share; it ends with the process."""
    global _shared
    if _shared is None:
        folder = Path(tempfile.mkdtemp(prefix="dicm-ranks-"))
        _shared = Ranks(2, folder, timeout=60)
        atexit.register(_end_shared, _shared)
    return _shared


def _end_shared(ranks: Ranks) -> None:
    ranks.close()
    shutil.rmtree(ranks.folder, ignore_errors=True)


def _serve(connection: Connection, strict: bool, stack_file: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    if strict:
        warnings.simplefilter("error")
        # The same exemptions as in pyproject.toml, for the same causes.
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "The `srun` command is available")
    while True:
        try:
            sys.path[:], rank, num_ranks, store, seconds = pickle.loads(connection.recv_bytes())
            message = connection.recv_bytes()
        except EOFError:
            return
        with open(stack_file, "w") as stack:  # noqa: PTH123 - faulthandler wants a file that stays open
            faulthandler.dump_traceback_later(0.9 * seconds, file=stack)
            try:
                function, args = pickle.loads(message)
                if store is not None:
                    if distributed.is_initialized():
                        distributed.destroy_process_group()
                    distributed.init_process_group(
                        "gloo",
                        store=distributed.FileStore(store, num_ranks),
                        rank=rank,
                        world_size=num_ranks,
                        timeout=datetime.timedelta(seconds=seconds / 2),
                    )
                answer = pickle.dumps((True, function(rank, num_ranks, *args)))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            faulthandler.cancel_dump_traceback_later()
        connection.send_bytes(answer)
