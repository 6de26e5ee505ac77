"""Several hosts on one machine: network namespaces joined by a bridge, whose links can be measured, shaped and cut.

```
  host 0: eth0 10.77.0.1      host 1: eth0 10.77.0.2   ...     namespaces with an `lo` of their own
             |                           |                     veth pairs
          port0 ---------- bridge ---- port1           ...     one more namespace: nothing is added to the machine's own
```

Needs root and `ip` (and `tc`, to shape). The hosts share processors, memory and files; only the network is their own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

REPOSITORY = Path(__file__).parents[3]
DEVICE = "eth0"
"""What a host calls its link."""
PACKET_BYTES = 15_000
"""The largest packet, ten of Ethernet's: kernels leave it to the network card to cut them up. One larger than the burst
would be cut up by the processor, and where hosts share a few cores that takes longer than sending it."""
BURST_BYTES = 16_384
"""What a shaped link lets pass at once: small, or short messages would not feel the shaping at all."""
QUEUE_MS = 50
"""How long a packet waits at a shaped link before it is dropped."""


class Hosts:
    """`num_hosts` namespaces; `hosts` makes them and takes them away."""

    def __init__(self, num_hosts: int):
        # of this run alone: two runs beside each other are two networks, with the same addresses in each
        stem = f"dicm-{os.getpid()}-{uuid4().hex[:6]}"
        self.num_hosts = num_hosts
        self._switch = f"{stem}-switch"
        self._names = [f"{stem}-host{host}" for host in range(num_hosts)]
        self._started: list[subprocess.Popen[bytes]] = []

    def address(self, host: int) -> str:
        """Returns the host's address on the bridge."""
        return f"10.77.0.{host + 1}"

    def start(
        self, host: int, command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Starts a command on a host, in a session of its own; `output` gets what it writes, errors too."""
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._names[host], *command],
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def cut(self, host: int) -> None:
        """Takes the host's link down: nothing that is sent arrives, and nobody is told."""
        _run("ip", "-n", self._names[host], "link", "set", DEVICE, "down")

    def shape(self, mbit: float | None) -> None:
        """Limits every link, both ways, to so many Mbit/s; None: no limit. There is no added delay."""
        for namespace, device in self._ends():
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root", check=False)
            if mbit is not None:
                limits = ["rate", f"{mbit}mbit", "burst", f"{BURST_BYTES}", "latency", f"{QUEUE_MS}ms"]
                _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *limits)

    def _ends(self) -> list[tuple[str, str]]:
        """Returns both ends of every link; each limits only what it sends itself: eth0 the host, portN the bridge."""
        ports = [(self._switch, f"port{host}") for host in range(self.num_hosts)]
        return [*((name, DEVICE) for name in self._names), *ports]

    def sent_bytes(self) -> int:
        """Returns what all hosts have sent since they were made, headers included."""
        shown = [_run("ip", "-n", name, "-j", "-s", "link", "show", DEVICE) for name in self._names]
        return sum(json.loads(each)[0]["stats64"]["tx"]["bytes"] for each in shown)

    def throughput(self, sender: int, receiver: int, num_bytes: int) -> float:
        """Returns the Mbit/s at which so many bytes arrive over one TCP connection."""
        listening = self._script(receiver, _RECEIVE, str(num_bytes))
        assert listening.stdout is not None
        listening.stdout.readline()
        sending = self._script(sender, _SEND, self.address(receiver), str(num_bytes))
        sending.communicate(timeout=60)
        seconds = float(listening.communicate(timeout=60)[0])
        return 8e-6 * num_bytes / seconds

    def _script(self, host: int, text: str, *arguments: str) -> "subprocess.Popen[str]":
        command = ["ip", "netns", "exec", self._names[host], sys.executable, "-c", text, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def _build(self) -> None:
        _run("ip", "netns", "add", self._switch)
        _run("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "bridge", "up")
        for host, name in enumerate(self._names):
            port = f"port{host}"
            _run("ip", "netns", "add", name)
            pair = ["type", "veth", "peer", "name", DEVICE, "netns", name]
            _run("ip", "-n", self._switch, "link", "add", port, *pair)
            _run("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", name, "address", "add", f"{self.address(host)}/24", "dev", DEVICE)
            _run("ip", "-n", name, "link", "set", DEVICE, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        for namespace, device in self._ends():
            _run("ip", "-n", namespace, "link", "set", device, "gso_max_size", str(PACKET_BYTES))

    def _destroy(self) -> None:
        """Ends what still runs on the hosts; the links go with their namespaces."""
        for name in [*self._names, self._switch]:
            for pid in _run("ip", "netns", "pids", name, check=False).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _run("ip", "netns", "delete", name, check=False)
        for process in self._started:
            process.wait()


@contextmanager
def hosts(num_hosts: int) -> Iterator[Hosts]:
    """Makes hosts; ends their processes and takes the namespaces away afterwards, whatever happened."""
    made = Hosts(num_hosts)
    try:
        made._build()
        yield made
    finally:
        made._destroy()


def refusal() -> str | None:
    """Returns why hosts cannot be made here; None: they can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"dicm-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", name, "link", "add", "port0", "type", "veth", "peer", "name", DEVICE)
        _run("ip", "netns", "exec", name, "true")
    except RuntimeError as error:
        return str(error)
    finally:
        _run("ip", "netns", "delete", name, check=False)
    return None


def torchrun(
    made: Hosts, folder: Path, *program: str, environment: Mapping[str, str] | None = None
) -> list["subprocess.Popen[bytes]"]:
    """Starts one rank on each host, as on machines of their own; `folder/host-N.log` gets what it writes.

    `program`: what comes after torchrun's own arguments, `-m dicm_kit run ...`.
    """
    common = ["--nnodes", str(made.num_hosts), "--nproc-per-node", "1", "--master-addr", made.address(0)]
    variables = {
        "GLOO_SOCKET_IFNAME": DEVICE,  # else gloo takes what the machine's name resolves to, often a loopback address
        "OMP_NUM_THREADS": "1",  # the hosts share few processors
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        **(environment or {}),
    }
    started = []
    for host in range(made.num_hosts):
        own = [sys.executable, "-m", "torch.distributed.run", *common, "--master-port", "29431"]
        own += ["--node-rank", str(host), *program]
        started.append(made.start(host, own, log_of(folder, host), variables))
    return started


def log_of(folder: Path, host: int) -> Path:
    """Returns the file that `torchrun` writes a host's output to."""
    return folder / f"host-{host}.log"


def wait_for_all(processes: Sequence["subprocess.Popen[bytes]"], seconds: float) -> list[int | None]:
    """Returns the exit codes; None for those that still run after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    return [process.poll() for process in processes]


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"`{' '.join(command)}`: {done.stderr.strip() or done.returncode}")
    return done.stdout


_RECEIVE = """
import socket, sys, time
wanted = int(sys.argv[1])
with socket.create_server(("", 29500)) as server:
    print(flush=True)
    connection, _ = server.accept()
    got, start = 0, None
    while got < wanted and (came := len(connection.recv(1 << 20))):
        got += came
        start = start or time.perf_counter()
    assert got == wanted
    print(time.perf_counter() - start)
"""

_SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 29500)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""
