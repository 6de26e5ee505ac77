"""How near `extract` comes to what decoding and the forward alone allow, on made-up photos. Ratios of one run."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dicm_kit.images.backbone import TimmBackbone
from dicm_kit.images.extract import _decoded, _Forward, _jobs, _planned, extract
from dicm_kit.images.known import KnownVectors
from dicm_kit.memory import keep_pages
from dicm_kit.shards import ShardWriter

PARTITIONS = 4


def write_photos(folder: Path, count: int) -> None:
    """Writes JPEGs of a small shop photo's size, smooth with some grain."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, PARTITIONS) as writer:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)).resize((192, 256))
            grain = np.asarray(coarse) + rng.integers(-12, 13, (256, 192, 3))
            file = BytesIO()
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
            writer.add(str(number), file.getvalue())


def rate(count: int, work: Callable[[], object]) -> float:
    """Returns pictures per second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def main() -> None:
    """Prints forward, decode, what they allow together, extract, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv2_100")
    parser.add_argument("--layer", default="pooled")
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    keep_pages()
    backbone = TimmBackbone(options.model, weights="none", layer=options.layer)
    forward = _Forward(backbone, torch.device("cpu"), "auto")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "images", options.pictures)
        parts = _planned(folder / "images", list(range(PARTITIONS)), None, KnownVectors([]))
        batch = next(_decoded(_jobs(parts, options.batch_size), backbone, threads, overlap=False)).pixels
        assert batch is not None
        forward(batch)
        print(f"{options.model}, {options.pictures} pictures, batches of {options.batch_size}, {threads} threads")
        best = [0.0, 0.0, 0.0]
        passes = max(1, options.pictures // 2 // len(batch))

        def decode_all() -> None:
            for _ in _decoded(_jobs(parts, options.batch_size), backbone, threads, overlap=False):
                pass

        def extract_all() -> None:
            made = {"request": {}, "partitions": PARTITIONS, "pictures_fingerprint": "", "progress": False}
            extract(folder / "images", folder / "features", backbone, batch_size=options.batch_size, **made)
            shutil.rmtree(folder / "features")

        for _ in range(options.repeats):
            forwards = rate(passes * len(batch), lambda: [forward(batch) for _ in range(passes)])
            decodes = rate(options.pictures, decode_all)
            extracts = rate(options.pictures, extract_all)
            best = [max(pair) for pair in zip(best, (forwards, decodes, extracts), strict=True)]
            report("run", forwards, decodes, extracts)
        report("best", *best)


def report(name: str, forwards: float, decodes: float, extracts: float) -> None:
    """Prints one line of rates and the ratio to what forward and decode allow together."""
    bound = 1 / (1 / forwards + 1 / decodes)
    print(
        f"{name:4}  forward {forwards:5.0f}/s  decode {decodes:5.0f}/s  together {bound:5.0f}/s  "
        f"extract {extracts:5.0f}/s  ratio {extracts / bound:.2f}"
    )


if __name__ == "__main__":
    main()
