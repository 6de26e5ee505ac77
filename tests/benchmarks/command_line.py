"""Prints how long `dicm --help` and `dicm check` take to answer: `python tests/benchmarks/command_line.py`."""

import subprocess
import sys
import time

RECIPE = "plugins/example_aggregator/recipe.yaml"


def seconds(*arguments: str, times: int = 5) -> float:
    """Returns the fastest of some tries, a new process each."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dicm_kit", *arguments], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Prints the times beside the bare start of Python."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    print(f"python -c pass       {time.perf_counter() - start:5.2f} s")
    print(f"dicm --help          {seconds('--help'):5.2f} s   (at most 0.50)")
    print(f"dicm check RECIPE    {seconds('check', RECIPE, times=2):5.2f} s   (imports torch)")


if __name__ == "__main__":
    main()
