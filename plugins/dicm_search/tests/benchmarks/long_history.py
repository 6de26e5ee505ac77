"""Prints what a search before attention saves on histories of 1,000 clicks: time and memory of a step, as ratios.

    python plugins/dicm_search/tests/benchmarks/long_history.py [--length 1000] [--k 20 50 100] [--rows 256]

A step is forward and backward of the aggregator alone, all ways by turns in the same process, so that a busy machine
slows all of them; the time is the median of the rounds. Memory is the most that is alive at once beyond the inputs:
what the profiler sees allocated and freed on CPU, `max_memory_allocated` on CUDA.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dicm_kit import HistoryShapes
from dicm_kit.interest.attention import AttentionConfig, build_attention

sys.path.insert(0, str(Path(__file__).parents[2]))
from dicm_search import TwoStageSearch

WIDTH = 12
SHAPES = HistoryShapes({"image": WIDTH}, {"image": WIDTH, "age": 1}, ("image",), 1000)

Step = Callable[[], None]


def step_of(aggregator: torch.nn.Module, rows: int, length: int, device: str) -> Step:
    """Returns a step: forward and backward of a full batch, to the vectors and the parameters."""
    generator = torch.Generator().manual_seed(0)
    target_BI = torch.randn(rows, WIDTH, generator=generator).to(device).requires_grad_()
    history_BLI = torch.randn(rows, length, WIDTH, generator=generator).to(device).requires_grad_()
    age_BL1 = torch.rand(rows, length, 1, generator=generator).to(device)
    mask_BL = torch.ones(rows, length, dtype=torch.bool, device=device)
    aggregator.to(device)

    def step() -> None:
        for each in (target_BI, history_BLI, *aggregator.parameters()):
            each.grad = None
        aggregator({"image": target_BI}, {"image": history_BLI, "age": age_BL1}, mask_BL).vector.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def most_alive(step: Step, device: str) -> int:
    """Returns the bytes that are alive at the worst moment of a step, beyond what was there before."""
    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    alive = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--k", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()

    def attention() -> torch.nn.Module:
        return build_attention(AttentionConfig(hidden=[64, 32]), SHAPES)

    ways = {"attention over all": attention()}
    ways |= {f"search k={k}, attention": TwoStageSearch(attention(), k, "image", "image") for k in given.k}
    steps = {name: step_of(each, given.rows, given.length, given.device) for name, each in ways.items()}
    memory = {name: most_alive(step, given.device) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    print(f"{given.rows} rows, {given.length} clicks, {given.device}, {torch.get_num_threads()} threads")
    first = next(iter(steps))
    for name in steps:
        median, whole = statistics.median(seconds[name]), statistics.median(seconds[first])
        print(
            f"{name:26} {1000 * median:8.1f} ms  {memory[name] / 2**20:8.1f} MiB   of the first: "
            f"time {median / whole:.3f}, memory {memory[name] / memory[first]:.3f}"
        )


if __name__ == "__main__":
    main()
