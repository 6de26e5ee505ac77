"""A limit for what may hang: an exception that shows where it was; where none can be raised, the end and a stack."""

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

_GRACE = 5.0  # seconds between the exception and the end of the process: for code that no exception reaches


class TimedOut(BaseException):
    """Time is up; `stack` says where the code was. No `Exception`, so that a plugin does not catch it by mistake."""

    def __init__(self, seconds: float, stack: str):
        self.seconds, self.stack = seconds, stack
        super().__init__(f"no end after {seconds:g} s")


@contextmanager
def time_limit(seconds: float, told: str = "", *, may_end: bool = True) -> Iterator[None]:
    """Raises TimedOut in the block when it takes longer.

    It needs the main thread and a system that has SIGALRM; elsewhere, and where the code never comes back to Python,
    the process ends with exit code 1, after it has printed `told` and the stack, unless `may_end` is False. A timer
    that somebody else has set is set again afterwards.
    """
    with ExitStack() as stack:
        can_raise = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
        if may_end:
            stack.enter_context(_end_after(seconds + (_GRACE if can_raise else 0.0), seconds, told))
        if can_raise:
            stack.enter_context(_raise_after(seconds))
        yield


@contextmanager
def _raise_after(seconds: float) -> Iterator[None]:
    def raised(number: int, frame: FrameType | None) -> None:
        raise TimedOut(seconds, "".join(traceback.format_stack(frame)))

    before, began = signal.signal(signal.SIGALRM, raised), time.monotonic()
    other = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if other[0]:
            signal.setitimer(signal.ITIMER_REAL, max(other[0] - (time.monotonic() - began), 0.01), other[1])


@contextmanager
def _end_after(wait: float, seconds: float, told: str) -> Iterator[None]:
    watch = threading.Timer(wait, _end, (threading.get_ident(), seconds, told))
    watch.daemon = True
    watch.start()
    with suppress(OSError, ValueError, RuntimeError):  # no standard error that is a file
        # For code that never lets go of the interpreter, so that no thread of ours runs.
        faulthandler.dump_traceback_later(wait + 2 * _GRACE, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        watch.cancel()
        watch.join()


def _end(thread: int, seconds: float, told: str) -> None:
    frame = sys._current_frames().get(thread)
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    sys.stderr.write(f"{told}\nno end after {seconds:g} s, and it cannot be interrupted; it was here:\n{stack}")
    sys.stderr.flush()
    os._exit(1)
