"""Starting the ranks of one machine, and ending them: none is killed before it could say why it ends."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher


class PatientLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of processes, without its observer.

    That one kills all processes within seconds of one's death. This one lets them find out and say it, and kills those
    that have not ended `timeout` seconds later, this process too.
    """

    def __init__(
        self,
        environment: ClusterEnvironment,
        num_processes: int,
        num_nodes: int,
        timeout: float,
        explain: Callable[[BaseException], BaseException | None],
    ):
        """`explain`: gives what a rank's exception comes from, where that is another rank; else None."""
        super().__init__(environment, num_processes, num_nodes)
        self._timeout, self._explain = timeout, explain

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Starts the other ranks of this machine, where nobody else does, then calls the function."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            threading.Thread(target=self._observe, name="child-observer", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            cause = self._explain(error)
            if cause is None:
                raise
            raise cause from error

    def kill_silent(self, local_ranks: Iterable[int]) -> None:
        """Kills those that this process has started: nothing else would end a process that is stopped."""
        for local_rank in local_ranks:
            if 0 < local_rank <= len(self.procs):
                self.procs[local_rank - 1].kill()

    def _observe(self) -> None:
        while True:
            time.sleep(0.5)
            codes = [process.poll() for process in self.procs]
            if any(codes):
                break
            if all(code == 0 for code in codes):
                return
        rank = next(rank for rank, code in enumerate(codes, start=1) if code)
        time.sleep(self._timeout + 5)  # by then a heartbeat has ended this process
        print(
            f"The process of local rank {rank} ended with code {codes[rank - 1]}; others still run and are killed.",
            file=sys.stderr,
            flush=True,
        )
        self.kill_silent(range(1, self.num_processes))
        os.kill(os.getpid(), signal.SIGKILL)
