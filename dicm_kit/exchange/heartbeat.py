"""Every rank hears every other: who has died or fallen silent, and where it stood.

A collective that misses a rank waits for many minutes, and its error names an address. So a thread of each rank tells
all others, about once a second and over connections of its own, where it stands. A rank that computes for an hour goes
on telling; one that is killed, stopped, or cut off does not.
"""

import hmac
import json
import os
import secrets
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import distributed

from dicm_kit.errors import RankError
from dicm_kit.exchange.agree import raise_together

_SILENT, _TOO_LATE = 0.8, 0.95
"""Parts of the timeout: a rank counts as silent; a rank that could not end by itself is ended."""
_FIREWALL = "Ranks talk to each other over TCP, on ports that the system chooses: is a firewall between them?"


@dataclass
class _Peer:
    rank: int
    stream: socket.socket
    heard: float
    """When, on the clock of the time that this process was awake."""
    at: str = "the start"
    unsent: bytes = b""
    line: bytes = b""
    """The beginning of a line whose rest has not come yet."""
    is_over: bool = False
    """Nothing comes any more."""
    last_word: str | None = None
    """"": it has finished."""
    is_quoted: bool = False
    """Its last word speaks of another rank."""


class Heartbeat:
    """A thread that tells all other ranks `where()` this one stands, and hears them.

    When one dies, falls silent for most of `timeout` seconds, or ends with an error, `blame` says so; where the process
    has not closed the heartbeat within `timeout` seconds after that rank's last sign of life, `give_up` is called with
    the same text, in the thread: to end a process that waits in a collective for ever.
    """

    def __init__(
        self,
        rank: int,
        streams: dict[int, socket.socket],
        timeout: float,
        where: Callable[[], str],
        give_up: Callable[[str], None],
    ):
        """Takes a connected stream for each other rank; `meet` makes them."""
        self.rank, self.timeout = rank, timeout
        self._interval = min(1.0, timeout / 20)
        self._where, self._give_up = where, give_up
        self._awake = 0.0
        self._peers = [_Peer(other, stream, heard=0.0) for other, stream in sorted(streams.items())]
        self._selector = selectors.DefaultSelector()
        for peer in self._peers:
            peer.stream.setblocking(False)
            self._selector.register(peer.stream, selectors.EVENT_READ, peer)
        self._blame: str | None = None
        self.silent: list[int] = []
        """The ranks that are blamed for their silence."""
        self._give_up_at = 0.0
        self._is_known = threading.Event()
        self._is_closing = False
        _alive.add(self)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def meet(
        cls,
        host: str,
        timeout: float,
        where: Callable[[], str],
        give_up: Callable[[str], None],
        group: distributed.ProcessGroup | None = None,
    ) -> "Heartbeat":
        """Connects every rank of the group with every other, by TCP on ports that the system chooses.

        Collective. `host`: the address by which others reach this machine. RankError, the same on all ranks, when two
        cannot be connected.
        """
        rank, num_ranks = distributed.get_rank(group), distributed.get_world_size(group)
        token = secrets.token_hex(16)
        streams: dict[int, socket.socket] = {}
        error = None
        with _listener(num_ranks) as listener:
            cards: list[Any] = [None] * num_ranks
            distributed.all_gather_object(cards, (host, listener.getsockname()[1], token), group=group)
            deadline = time.monotonic() + timeout
            try:
                for other in range(rank):
                    address, port, its_token = cards[other]
                    streams[other] = _call(rank, other, address, port, its_token, deadline)
                _answer(listener, token, rank, range(rank + 1, num_ranks), streams, deadline)
            except RankError as mine:
                error = mine
        try:
            raise_together(error, group)
        except RankError:
            for stream in streams.values():
                stream.close()
            raise
        return cls(rank, streams, timeout, where, give_up)

    def blame(self, wait: float = 0.0) -> str | None:
        """Returns whose fault it is that the run ends, as soon as it is known; None: nobody's, in so many seconds."""
        self._is_known.wait(wait)
        return self._blame

    def close(self, last_word: str = "") -> None:
        """Tells the others that this rank has ended, and, where it did so too early, why."""
        if self._is_closing:
            return
        self._is_closing = True
        self._thread.join()
        quoted = self._blame is not None and not last_word
        self._tell({"at": self._where(), "ended": last_word or self._blame or "", "quoted": quoted})
        self.forget()

    def forget(self) -> None:
        """Closes the connections without a word."""
        _alive.discard(self)
        self._selector.close()
        for peer in self._peers:
            peer.stream.close()

    # --- the thread ---

    def _run(self) -> None:
        before = beat_at = time.monotonic()
        while not self._is_closing:
            now = time.monotonic()
            # a process that was stopped itself must not blame the others for it
            self._awake += min(now - before, 2 * self._interval)
            before = now
            if now >= beat_at:
                self._tell({"at": self._where()})
                beat_at = now + self._interval
            for key, _ in self._selector.select(min(beat_at - now, 0.1)):  # `close` waits no longer than that
                self._hear(key.data)
            if self._blame is None:
                self._judge()
            elif self._awake > self._give_up_at:
                self._tell({"at": self._where(), "ended": self._blame, "quoted": True})
                self._give_up(self._blame)
                return

    def _tell(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for peer in self._peers:
            if peer.is_over:
                continue
            peer.unsent += line
            with suppress(OSError):  # it does not read, or it is gone: what is heard of it tells which
                peer.unsent = peer.unsent[peer.stream.send(peer.unsent) :]

    def _hear(self, peer: _Peer) -> None:
        try:
            came = peer.stream.recv(2**16)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        *lines, peer.line = (peer.line + came).split(b"\n")
        for line in lines:
            message = json.loads(line)
            peer.heard, peer.at = self._awake, message["at"]
            if "ended" in message:
                peer.last_word, peer.is_quoted = message["ended"], message["quoted"]
        if not came:
            peer.is_over = True
            self._selector.unregister(peer.stream)

    def _judge(self) -> None:
        now, patience = self._awake, _SILENT * self.timeout
        if told := [peer for peer in self._peers if peer.last_word]:
            peer = told[0]
            said = peer.last_word or ""
            text = said if peer.is_quoted else f"rank {peer.rank} has ended with an error at {peer.at}: {said}"
        elif dead := [peer for peer in self._peers if peer.is_over and peer.last_word is None]:
            peer = dead[0]
            text = f"rank {peer.rank} has died: its process ended without a word; it was last heard of at {peer.at}"
        elif silent := [peer for peer in self._peers if peer.last_word is None and now - peer.heard > patience]:
            peer = silent[0]
            # one that began a little later, the others too
            silent = [each for each in self._peers if now - each.heard > 0.75 * patience and each.last_word is None]
            self.silent = [each.rank for each in silent]
            text = _of_the_silent(silent, now - peer.heard, len(silent) == len(self._peers))
        else:
            return
        self._blame = text
        self._give_up_at = peer.heard + _TOO_LATE * self.timeout
        self._is_known.set()


def _of_the_silent(silent: list[_Peer], seconds: float, is_alone: bool) -> str:
    ranks = f"rank {silent[0].rank} has" if len(silent) == 1 else f"ranks {_listed(each.rank for each in silent)} have"
    places = _listed(f"at {each.at}" if len(silent) == 1 else f"rank {each.rank} at {each.at}" for each in silent)
    text = f"{ranks} been silent for {seconds:.0f} s, last heard of {places}"
    return f"{text}; nobody else is heard, so the fault may be this rank's own network" if is_alone else text


def _listed(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


# --- how they meet ---


def _listener(num_ranks: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=num_ranks, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=num_ranks)


def _call(rank: int, other: int, host: str, port: int, token: str, deadline: float) -> socket.socket:
    try:
        stream = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.sendall(f"{token} {rank}\n".encode())
        return stream
    except OSError as error:
        raise RankError(
            f"cannot be reached at {host}, port {port}: {error.strerror or error}",
            where=f"rank {other}",
            todo=_FIREWALL,
        ) from error


def _answer(
    listener: socket.socket,
    token: str,
    rank: int,
    expected: range,
    streams: dict[int, socket.socket],
    deadline: float,
) -> None:
    """Adds a stream for each expected rank; whoever does not know the token is sent away."""
    while missing := [other for other in expected if other not in streams]:
        listener.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            stream, _ = listener.accept()
            stream.settimeout(max(0.1, deadline - time.monotonic()))
            told, _, number = _first_line(stream).partition(" ")
        except OSError as error:
            raise RankError(
                f"waited for {_listed(missing)}, which did not come: {error.strerror or error}",
                where=f"rank {rank}",
                todo=_FIREWALL,
            ) from error
        if hmac.compare_digest(told.encode(), token.encode()) and number.isdecimal() and int(number) in missing:
            streams[int(number)] = stream
        else:
            stream.close()


def _first_line(stream: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n") and len(line) < 100:
        came = stream.recv(1)
        if not came:
            break
        line += came
    return line.decode("ascii", "replace").strip()


# --- loader workers are forked: what they inherit would keep a dead rank's connections open ---

_alive: "weakref.WeakSet[Heartbeat]" = weakref.WeakSet()


def _in_forked_child() -> None:
    for heartbeat in list(_alive):
        heartbeat.forget()


os.register_at_fork(after_in_child=_in_forked_child)
