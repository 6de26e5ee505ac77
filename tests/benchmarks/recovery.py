"""How much of what perfect eyes would gain DICM gains from pixels, on the made-up shop, over three seeds.

    python tests/benchmarks/recovery.py [KEY=VALUE ...]

Trains recipes/quickstart/{baseline,dicm,attributes}.yaml with three seeds each (about ten minutes on 2 cores) and
prints the shares of the attribute-fed model's GAUC gain over the id-only baseline.
"""

import sys
from pathlib import Path
from statistics import mean

from dicm_kit.artifacts.results import Row, recovered
from dicm_kit.run import compare

RECIPES = [Path("recipes/quickstart") / f"{name}.yaml" for name in ("baseline", "dicm", "attributes")]
SLICES = {"gauc": "all items", "target_seen/gauc": "seen in training", "target_unseen/gauc": "new items"}


def main() -> None:
    baseline, dicm, attributes = compare(RECIPES, sys.argv[1:], seeds=3)
    print("\nGAUC gain over the id-only baseline, mean of three seeds")
    for metric, title in SLICES.items():
        gain = mean(_of(dicm, metric)) - mean(_of(baseline, metric))
        best = mean(_of(attributes, metric)) - mean(_of(baseline, metric))
        print(f"  {title:18} DICM {gain:+.4f}   perfect eyes {best:+.4f}   recovered {gain / best:.1%}")
    by_seed = [
        recovered(*(Row(row.name, [row.results[seed]]) for row in (baseline, dicm, attributes))) for seed in range(3)
    ]
    print(f"  recovered, seed by seed: {', '.join(f'{share:.1%}' for share in by_seed)}")


def _of(row: Row, metric: str) -> list[float]:
    return [each[metric] for each in row.results]


if __name__ == "__main__":
    main()
