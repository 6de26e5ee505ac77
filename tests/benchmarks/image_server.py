"""What the image server sends, how it scales, what deduplication saves: the wanted numbers beside what came out.

    python tests/benchmarks/image_server.py [bytes] [ranks] [dedup] [--rounds N] [--patience SECONDS] [--repeats N]

Ratios within one run, on CPU with gloo; made-up batches in the paper's proportions (paper_shop.py). `ranks` wants a
machine that does nothing else.
"""

# ruff: noqa: E402  (the folders of what it shares with tests come first)

import argparse
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import paper_shop as shop
from two_ranks import print_ranks
from wanted import row

from dicm_kit.exchange.owner import owner, partition
from dicm_kit.exchange.traffic import Traffic
from dicm_kit.images.server import ImageServer
from dicm_kit.images.store import FeatureStore
from dicm_kit.memory import keep_pages
from dicm_kit.testing.ranks import Ranks

RANKS, IMPRESSIONS, STEPS = 4, 3000, 3  # of `bytes`; impressions of each rank, as in the paper


# --- what is sent ---


def send(rank: int, num_ranks: int, folder: str, transport: str) -> dict[str, Any]:
    """Runs forward and backward of the picture part; returns what was counted, and what went over `lo` meanwhile."""
    group = dist.new_group()
    store = shop.Float32Store(FeatureStore.open(Path(folder), partitions=()))
    torch.manual_seed(0)
    server = ImageServer(store, shop.embedder(), transport=transport)  # type: ignore[arg-type]
    server.spread(group)
    batches = [shop.batch(IMPRESSIONS, 1, seed=100 * step + rank) for step in range(STEPS)]
    keys = [torch.cat([each.target_key_N, each.history_key_GL.flatten()]).unique() for each in batches]
    elsewhere = sum(int((owner(partition(each, shop.PARTITIONS), num_ranks) != rank).sum()) for each in keys)
    dist.barrier(group)
    before = wire()
    for each in batches:
        pictures = server(each.target_key_N, each.history_key_GL, each.mask_GL)
        assert pictures.target_NI is not None
        assert pictures.history_GLI is not None
        (pictures.target_NI.sum() + pictures.history_GLI.sum()).backward()
    dist.barrier(group)
    after = wire()
    dist.barrier(group)
    server.part()
    dist.destroy_process_group(group)
    held = sum(each.nbytes for each in vars(store.store).values() if isinstance(each, torch.Tensor))
    moved = None if before is None or after is None else (after[0] - before[0], after[1] - before[1])
    counted = {"traffic": server.exchange.traffic, "elsewhere": elsewhere, "held": held, "stored": store.num_bytes}
    return {**counted, "wire": moved, "references": server.counters["references"]}


def wire() -> tuple[int, int] | None:
    """Returns (bytes, segments sent again) over `lo` so far, where this network namespace is ours.

    The bytes are those of the packets, headers and receipts included.
    """
    if "OWN_LO" not in os.environ:
        return None
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    names, numbers = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Tcp:")
    return int(line.split()[9]), int(numbers[names.index("RetransSegs")])


def raise_lo() -> None:
    """`ip link set lo up`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    os.environ.update(OWN_LO="1", GLOO_SOCKET_IFNAME="lo")


def sent(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns each way's answers of all ranks."""
    pool = Ranks(RANKS, Path(tempfile.mkdtemp(dir=folder)), timeout=600)
    try:
        return {way: pool.run(RANKS, send, str(folder), way) for way in ("vectors", "backbone_vectors")}
    finally:
        pool.close()


def print_bytes(folder: Path) -> None:
    """Prints the table from within a network namespace of its own; where that is not allowed, without the wire."""
    command = ["unshare", "--net", sys.executable, __file__, "bytes", "--inside", str(folder)]
    try:
        inside = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        print_sent(sent(folder), not_measured=str(error))
        return
    if inside.returncode and "unshare" in inside.stderr:
        print_sent(sent(folder), not_measured=inside.stderr.strip().splitlines()[-1])
        return
    print(inside.stdout, inside.stderr, end="")
    inside.check_returncode()


def print_sent(ways: dict[str, list[dict[str, Any]]], not_measured: str = "") -> None:
    total = {way: sum((each["traffic"] for each in answers), Traffic()) for way, answers in ways.items()}
    ams, wide = total["vectors"], total["backbone_vectors"]
    answers = ways["vectors"]
    elsewhere, stored = sum(each["elsewhere"] for each in answers), answers[0]["stored"]
    law = 8 * RANKS * (RANKS - 1) * STEPS + elsewhere * (8 + 2 * 4 * shop.NARROW)
    assert ams.bytes_sent == law, "law 4: every byte is counted"
    references = sum(each["references"] for each in answers)
    print(
        f"R = {RANKS} ranks of {IMPRESSIONS} impressions, histories of {shop.LENGTH}; keys int64, all vectors and "
        f"gradients float32, C = {shop.WIDE}, I = {shop.NARROW}; mean of {STEPS} steps"
    )
    row("picture references", f"{references / STEPS:,.0f}")
    row("distinct, each rank's added up", f"{ams.asked / STEPS:,.0f}")
    row("distinct of all, V", f"{ams.served / STEPS:,.0f}")
    of_pictures = {name: each.vectors_bytes + each.gradients_bytes for name, each in (("a", ams), ("s", wide))}
    for name, each, title in (("a", ams, "AMS"), ("s", wide, "store-in-server")):
        row(f"{title}: picture vectors and their gradients", f"{of_pictures[name] / STEPS / 1e6:,.2f} MB")
        row(f"{title}: all bytes of the exchange", f"{each.bytes_sent / STEPS / 1e6:,.2f} MB")
    row("pictures, AMS / store-in-server", f"1/{of_pictures['s'] / of_pictures['a']:.1f}", "at most 1/150")
    row("all bytes, AMS / store-in-server", f"1/{wide.bytes_sent / ams.bytes_sent:.1f}")
    row("stored on all ranks / one copy", f"{sum(each['held'] for each in answers) / stored:.3f}", "1")
    if not_measured:
        row("bytes on the wire / count of law 4", "not measured", f"at most 1.02; no network namespace: {not_measured}")
    else:
        for title, way, wanted in (("AMS", "vectors", "at most 1.02"), ("store-in-server", "backbone_vectors", "")):
            moved, again = ways[way][0]["wire"]
            row(f"{title}: bytes on the wire / count of law 4", f"{moved / total[way].bytes_sent:.4f}", wanted)
            row("  TCP segments sent twice, of up to 64 KB", f"{again}", "0 on a quiet machine")
        print(
            "Wire: what `lo` of a network namespace of its own sent, with TCP/IP headers, receipts and two barriers.\n"
            "Its packets hold up to 64 KB. In packets of 1,500 bytes, as on Ethernet, headers add 4.6 % by themselves."
        )


# --- without deduplication ---


def milliseconds(step: Callable[[], object], repeats: int) -> float:
    """Returns the best time of a step: the machine may be busy with something else at times."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def print_dedup(folder: Path, repeats: int) -> None:
    keep_pages()
    store, embedder = FeatureStore.open(folder), shop.embedder()
    server = ImageServer(store, embedder)
    for per_group in (1, 5):
        batch = shop.batch(IMPRESSIONS, per_group, seed=0)
        history_NL = batch.history_key_GL[batch.group_N]
        keys_K = torch.cat([batch.target_key_N, history_NL.flatten()])

        def every_reference(keys_K: torch.Tensor = keys_K) -> None:
            vectors, _ = store.lookup(keys_K)
            vectors = vectors.bfloat16() if torch.is_autocast_enabled("cpu") else vectors.float()
            embedder(vectors).float().sum().backward()

        def distinct(batch: Any = batch) -> None:
            pictures = server(batch.target_key_N, batch.history_key_GL, batch.mask_GL)
            assert pictures.target_NI is not None
            assert pictures.history_GLI is not None
            (pictures.target_NI.sum() + pictures.history_GLI.sum()).backward()

        took = {}
        for precision in ("float32", "bfloat16"):
            with torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext():
                took[precision] = milliseconds(every_reference, repeats), milliseconds(distinct, 2 * repeats)
        references, num_distinct = len(keys_K), len(keys_K.unique())
        print(
            f"\nOne process of {torch.get_num_threads()} thread, {IMPRESSIONS} impressions, {per_group} to a history: "
            f"{references:,} references, {num_distinct:,} distinct, {references / num_distinct:.1f} to 1"
        )
        for precision, (full, once) in took.items():
            row(f"picture part in {precision}: every reference, distinct", f"{full:,.0f} ms, {once:,.0f} ms")
        for precision, wanted in (("bfloat16", "at least 15"), ("float32", "")):
            row(
                f"every reference / distinct, both in {precision}",
                f"{took[precision][0] / took[precision][1]:.1f}",
                wanted,
            )
        row("every reference in float32 / distinct in bfloat16", f"{took['float32'][0] / took['bfloat16'][1]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="bytes|ranks|dedup", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="of `ranks`")
    parser.add_argument("--patience", type=float, default=0, help="how long each round waits for a quiet machine")
    parser.add_argument("--repeats", type=int, default=3, help="of `dedup`")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        raise_lo()
        print_sent(sent(options.inside))
        return
    what = options.what or ["bytes", "ranks", "dedup"]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop.write_vectors(folder)
        row("", "result", "wanted")
        if "bytes" in what:
            print_bytes(folder)
        if "ranks" in what:
            print_ranks(folder, options.rounds, options.patience)
        if "dedup" in what:
            print_dedup(folder, options.repeats)


if __name__ == "__main__":
    main()
