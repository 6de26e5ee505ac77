"""Several heartbeats in one process; how they meet over a process group and end real runs: tests/distributed."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dicm_kit.errors import RankError
from dicm_kit.exchange import heartbeat
from dicm_kit.exchange.heartbeat import Heartbeat, _answer, _call

TIMEOUT = 2.0


class Mesh:
    """Heartbeats of several ranks, each connected with each."""

    def __init__(self, num_ranks: int, silent: int | None = None):
        """`silent`: a rank that is connected and has no heartbeat."""
        self.streams: dict[int, dict[int, socket.socket]] = {rank: {} for rank in range(num_ranks)}
        for a in range(num_ranks):
            for b in range(a):
                self.streams[a][b], self.streams[b][a] = socket.socketpair()
        self.given_up: dict[int, tuple[float, str]] = {}
        self.ranks = {
            rank: Heartbeat(rank, self.streams[rank], TIMEOUT, lambda r=rank: f"step {r}", self._give_up(rank))
            for rank in range(num_ranks)
            if rank != silent
        }
        self.start = time.monotonic()

    def _give_up(self, rank):
        return lambda text: self.given_up.setdefault(rank, (time.monotonic() - self.start, text))

    def kill(self, rank: int) -> None:
        """Ends a rank as the kernel would: its connections close, and nobody says why."""
        killed = self.ranks.pop(rank)
        killed._is_closing = True
        killed._thread.join()
        killed.forget()

    def close(self) -> None:
        for each in self.ranks.values():
            each.close()
        for streams in self.streams.values():
            for stream in streams.values():
                stream.close()


@pytest.fixture
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    made = Mesh(*getattr(request, "param", (3,)))
    yield made
    made.close()


def wait_until(true, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it has not come to it"
        time.sleep(0.02)


def test_nobody_is_blamed_while_all_are_heard(mesh: Mesh) -> None:
    time.sleep(1.5 * TIMEOUT)
    assert [each.blame() for each in mesh.ranks.values()] == [None] * 3
    assert mesh.given_up == {}


def test_a_rank_that_has_finished_is_not_missed(mesh: Mesh) -> None:
    mesh.ranks.pop(1).close()
    time.sleep(1.5 * TIMEOUT)
    assert [each.blame() for each in mesh.ranks.values()] == [None] * 2


def test_a_death_is_known_at_once_and_given_up_within_the_timeout(mesh: Mesh) -> None:
    time.sleep(0.2)
    mesh.kill(1)
    text = "rank 1 has died: its process ended without a word; it was last heard of at step 1"
    for each in mesh.ranks.values():
        assert each.blame(wait=1.0) == text
    assert mesh.given_up == {}
    wait_until(lambda: len(mesh.given_up) == 2)
    for seconds, given_up in mesh.given_up.values():
        assert given_up == text
        assert seconds < 0.2 + TIMEOUT + 0.5


def test_who_closes_in_time_does_not_give_up(mesh: Mesh) -> None:
    mesh.kill(1)
    for each in mesh.ranks.values():
        assert each.blame(wait=1.0)
        each.close()
    time.sleep(TIMEOUT)
    assert mesh.given_up == {}


def test_the_last_word_is_passed_on(mesh: Mesh) -> None:
    wait_until(lambda: all(peer.at == "step 1" for peer in mesh.ranks[0]._peers if peer.rank == 1))
    mesh.ranks.pop(1).close("DataError: lane-002.parquet: cannot be read")
    text = "rank 1 has ended with an error at step 1: DataError: lane-002.parquet: cannot be read"
    assert mesh.ranks[0].blame(wait=1.0) == text
    mesh.ranks.pop(0).close()
    assert mesh.ranks[2].blame(wait=1.0) == text


@pytest.mark.parametrize("mesh", [(4, 2)], indirect=True)
def test_silence_is_noticed(mesh: Mesh) -> None:
    assert mesh.ranks[0].blame() is None
    assert (mesh.ranks[0].blame(wait=TIMEOUT) or "").startswith("rank 2 has been silent for 2 s, last heard of at")
    assert mesh.ranks[0].silent == [2]
    wait_until(lambda: len(mesh.given_up) == 3)
    assert all(seconds < TIMEOUT + 0.5 for seconds, _ in mesh.given_up.values())


@pytest.mark.parametrize("mesh", [(2, 1)], indirect=True)
def test_who_hears_nobody_may_be_cut_off_itself(mesh: Mesh) -> None:
    text = mesh.ranks[0].blame(wait=TIMEOUT)
    assert text is not None
    assert text.endswith("nobody else is heard, so the fault may be this rank's own network")


def test_loader_workers_do_not_keep_connections_open(mesh: Mesh) -> None:
    go_on = multiprocessing.get_context("fork").Event()
    worker = multiprocessing.get_context("fork").Process(target=go_on.wait)
    worker.start()  # as a loader worker of rank 1, which lives on for a while
    try:
        mesh.kill(1)
        assert mesh.ranks[0].blame(wait=1.0) is not None
    finally:
        go_on.set()
        worker.join()


def test_whoever_does_not_know_the_token_is_sent_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        streams: dict[int, socket.socket] = {}
        waiting = threading.Thread(
            target=_answer, args=(listener, "secret", 0, range(1, 2), streams, time.monotonic() + 5)
        )
        waiting.start()
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"guessed 1\n")
            assert stranger.recv(1) == b""
        known = _call(1, 0, "127.0.0.1", port, "secret", time.monotonic() + 5)
        waiting.join()
        assert list(streams) == [1]
        known.close()
        streams[1].close()


def test_a_rank_that_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RankError, match=f"rank 0: cannot be reached at 127.0.0.1, port {port}: Connection refused"):
        _call(1, 0, "127.0.0.1", port, "secret", time.monotonic() + 1)


def test_a_rank_that_does_not_come() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(RankError, match="rank 0: waited for 1 and 2, which did not come: timed out"),
    ):
        _answer(listener, "secret", 0, range(1, 3), {}, time.monotonic())


def test_a_process_that_was_stopped_blames_nobody(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its threads stand still together, as when the machine sleeps, and find the clock advanced."""
    plain = time.monotonic
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: plain() + 100)
    time.sleep(0.5)
    assert [each.blame() for each in mesh.ranks.values()] == [None] * 3
    assert mesh.given_up == {}
