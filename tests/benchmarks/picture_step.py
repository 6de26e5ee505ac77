"""What computing each distinct picture once saves in a training step, and how near the step is to its floor."""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.memory import keep_pages


class MemoryStore:
    """Vectors in memory under the keys 1 to n."""

    def __init__(self, num_pictures: int, dim: int):
        self.vectors_SC = torch.randn(num_pictures, dim).half()

    def lookup(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (vectors, found)."""
        return self.vectors_SC[keys_U - 1], torch.ones_like(keys_U, dtype=torch.bool)


def milliseconds(step: Callable[[], object], repeats: int) -> float:
    """Returns the best time of a step: the machine may be busy with something else at times."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Prints a table: every reference, distinct pictures, distinct pictures in bfloat16, the products alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=512, help="each with a history of 32 and one impression")
    parser.add_argument("--pictures", type=int, default=2218)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_pages()
    torch.manual_seed(0)
    store = MemoryStore(options.pictures, options.dim)
    embedder = Embedder(options.dim)
    server = ImageServer(store, embedder)
    history_GL = torch.randint(1, options.pictures + 1, (options.groups, 32))
    target_N = torch.randint(1, options.pictures + 1, (options.groups,))
    mask_GL = torch.ones_like(history_GL, dtype=torch.bool)
    num_distinct = len(torch.cat([history_GL.flatten(), target_N]).unique())
    products = [
        torch.randn(num_distinct, layer.in_features) for layer in embedder if isinstance(layer, torch.nn.Linear)
    ]

    def every_reference() -> None:
        vectors, _ = store.lookup(torch.cat([target_N, history_GL.flatten()]))
        embedder(vectors.float()).sum().backward()

    def distinct_pictures() -> None:
        pictures = server(target_N, history_GL, mask_GL)
        assert pictures.target_NI is not None
        assert pictures.history_GLI is not None
        (pictures.target_NI.sum() + pictures.history_GLI.sum()).backward()

    def in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            distinct_pictures()

    def products_alone() -> None:
        layers = [layer for layer in embedder if isinstance(layer, torch.nn.Linear)]
        with torch.inference_mode():
            for layer, rows, is_first in zip(layers, products, [True, False, False], strict=True):
                out = rows @ layer.weight.T
                out.T @ rows
                if not is_first:
                    out @ layer.weight

    def products_in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            products_alone()

    print(f"{33 * options.groups:,} references, {num_distinct:,} distinct pictures, C = {options.dim}")
    full = milliseconds(every_reference, options.repeats)
    for name, step in {
        "every reference": every_reference,
        "distinct": distinct_pictures,
        "  products alone": products_alone,
        "distinct, bfloat16": in_bfloat16,
        "  products alone, bfloat16": products_in_bfloat16,
    }.items():
        took = milliseconds(step, options.repeats)
        print(f"{name:28} {took:8.1f} ms   1/{full / took:.1f} of every reference")


if __name__ == "__main__":
    main()
