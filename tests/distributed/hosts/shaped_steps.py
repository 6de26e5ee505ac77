"""How much slower is a step on slower links, and how much of the exchange does looking ahead hide?

AMS, store-in-server and store-in-worker on four hosts; the first two also without `trainer.look_ahead`.

    python tests/distributed/hosts/shaped_steps.py [--rounds N] [--steps N] [KEY=VALUE ...] [--ways WAY ...]

Four network namespaces, one rank of one thread in each. The links change their speed during the run, round after round,
so that a ratio compares steps of one run, minutes apart, and a machine that is busy now and then harms all alike. Needs
root, `ip` and `tc`. The dataset is drawn into data/wide the first time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[3]))
from distributed.hosts.namespaces import REPOSITORY, Hosts, hosts, log_of, refusal, torchrun, wait_for_all

from dicm_kit import run
from dicm_kit.recipe.load import load

HERE = Path(__file__).parent
RECIPE = HERE / "wide.yaml"
HOSTS = 4
WAYS = {
    "AMS": ["trainer.strategy=image_server"],
    "AMS, one by one": ["trainer.strategy=image_server", "trainer.look_ahead=false"],
    "store-in-server": ["trainer.strategy=image_server", "images.transport=backbone_vectors"],
    "store-in-server, one by one": [
        *("trainer.strategy=image_server", "images.transport=backbone_vectors", "trainer.look_ahead=false")
    ],
    "store-in-worker": ["trainer.strategy=ddp"],
}
SPEEDS = {None: "unshaped", 1000.0: "1 Gbit/s", 100.0: "100 Mbit/s"}
"""Mbit/s of every link, each way."""
WARM_UP = 5
WAIT = 120  # seconds that a phase may take


@dataclass
class Measured:
    """What was measured at one speed, over all rounds."""

    seconds: list[float] = field(default_factory=list)
    """Of each step."""
    num_bytes: list[float] = field(default_factory=list)
    """Sent by all hosts in a step, by round, with everything: exchange, averaging of gradients, headers."""
    legs: dict[str, float] = field(default_factory=dict)
    """Seconds that rank 0 took for each leg of the exchange, in all steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps at each speed, in each round")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), metavar="WAY", help="some of them")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of wide.yaml")
    options = parser.parse_args()
    if reason := refusal():
        sys.exit(f"no hosts can be made here: {reason}")
    os.chdir(REPOSITORY)
    print("preparing")
    run.extract(load(RECIPE, options.overrides))
    with hosts(HOSTS) as made:
        check_shaping(made)
        for way in options.ways:
            with tempfile.TemporaryDirectory() as folder:
                given = [*options.overrides, *WAYS[way]]
                print_way(way, measured(made, Path(folder), given, options.rounds, options.steps))


def check_shaping(made: Hosts) -> None:
    """Prints what one TCP connection gets at each speed; ends when a shaped link does not hold it."""
    for mbit, name in SPEEDS.items():
        made.shape(mbit)
        got = made.throughput(0, 1, int(1e6 * min(mbit or 2000, 2000) / 8))  # a second of it
        print(f"one connection, {name}: {got:,.0f} Mbit/s")
        if mbit is not None and not 0.8 < got / mbit < 1.02:
            sys.exit("the shaping does not hold")


def measured(made: Hosts, folder: Path, overrides: list[str], rounds: int, steps: int) -> dict[float | None, Measured]:
    """Trains on all hosts, and changes the links' speed between the phases."""
    phases = list(SPEEDS) * rounds
    plan = [str(number) for number in (WARM_UP, len(phases), steps)]
    given = [*overrides, f"trainer.num_nodes={HOSTS}", "trainer.devices=1", f"run_dir={folder / 'run'}"]
    made.shape(None)
    processes = torchrun(made, folder, str(HERE / "timed_rank.py"), str(folder), *plan, str(RECIPE), *given)
    sent = []
    for phase, mbit in enumerate(phases):
        end = time.monotonic() + WAIT
        while not (folder / f"ready-{phase}").exists():
            if time.monotonic() > end or any(process.poll() is not None for process in processes):
                _fail(folder, processes)
            time.sleep(0.01)
        sent.append(made.sent_bytes())
        made.shape(mbit)
        (folder / f"go-{phase}").touch()
    if wait_for_all(processes, WAIT) != [0] * HOSTS:
        _fail(folder, processes)
    sent.append(made.sent_bytes())
    result = {mbit: Measured() for mbit in SPEEDS}
    for mbit, before, after in zip(phases, sent, sent[1:], strict=False):
        result[mbit].num_bytes.append((after - before) / (1 + steps))
    noted = json.loads((folder / "steps.json").read_text())
    for mbit, seconds, traffic in zip(phases, noted["seconds"], noted["traffic"], strict=True):
        result[mbit].seconds += seconds
        for leg in ("sizes", "keys", "lookup", "vectors", "gradients", "wait"):
            result[mbit].legs[leg] = result[mbit].legs.get(leg, 0.0) + traffic[f"{leg}_seconds"]
    return result


def _fail(folder: Path, processes: list["subprocess.Popen[bytes]"]) -> NoReturn:
    logs = "".join(f"\n--- host {host}\n{log_of(folder, host).read_text()}" for host in range(HOSTS))
    sys.exit(f"exit codes {[process.poll() for process in processes]} (None: still running){logs}")


def print_way(way: str, result: dict[float | None, Measured]) -> None:
    """Prints the lines of one way: median and quartiles of a step, ratio to the unshaped step, bytes."""
    unshaped = median(result[None].seconds)
    for mbit, name in SPEEDS.items():
        seconds = sorted(result[mbit].seconds)
        low, middle, high = seconds[len(seconds) // 4], median(seconds), seconds[3 * len(seconds) // 4]
        megabytes = median(result[mbit].num_bytes) / 1e6
        print(
            f"{way:28} {name:12} {middle:7.3f} s a step ({low:.3f} to {high:.3f}, {len(seconds)} steps)"
            f"   {middle / unshaped:6.2f} x unshaped   {megabytes:8.2f} MB sent in a step"
        )
        legs = {leg: 1000 * each / len(seconds) for leg, each in result[mbit].legs.items() if each}
        print(" " * 28, "rank 0, ms a step:", ", ".join(f"{leg} {each:.2f}" for leg, each in legs.items()))


if __name__ == "__main__":
    main()
