"""Work that goes on beside the training step: one thread, one job after the other."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Job(Generic[Result]):
    """Something that is being done; `result` waits for it."""

    def __init__(self, do: Callable[[], Result]):
        self._do: Callable[[], Result] | None = do
        self._done = threading.Event()
        self._result: Result | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Does it; to be called once."""
        assert self._do is not None, "once"
        try:
            with torch.no_grad():  # a thread has a gradient mode of its own
                self._result = self._do()
        except BaseException as error:
            self._error = error
        self._do = None
        self._done.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Returns whether it is done."""
        return self._done.wait(seconds)

    def result(self) -> Result:
        """Returns what came of it, or raises what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Ahead:
    """A thread that does what it is given, in that order: so ranks that give the same meet in the same collectives.

    It begins with the first job, and does not keep the process from ending: a job may wait for a rank that has gone.
    """

    def __init__(self, name: str):
        self._name = name
        self._jobs: SimpleQueue[Job | None] | None = None
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[[], Result]) -> Job[Result]:
        """Begins a job, after those before it."""
        if self._jobs is None:
            self._jobs = SimpleQueue()
            self._thread = threading.Thread(target=self._work, args=(self._jobs,), name=self._name, daemon=True)
            self._thread.start()
        begun = Job(job)
        self._jobs.put(begun)
        return begun

    def close(self, seconds: float) -> None:
        """Lets what was begun end, and the thread with it; leaves them to themselves after so many seconds."""
        if self._jobs is not None and self._thread is not None:
            self._jobs.put(None)
            self._thread.join(seconds)
        self._jobs = self._thread = None

    @staticmethod
    def _work(jobs: "SimpleQueue[Job | None]") -> None:
        while (job := jobs.get()) is not None:
            job.run()
            del job  # its result may be large
