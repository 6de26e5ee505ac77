"""Measures training steps, whole and in parts, and the machine's rates, in a callback of Lightning."""

import time
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from dicm_kit.images.floor import Floor, floor_of, wait_for
from dicm_kit.images.server import ImageServer
from dicm_kit.training.module import CtrModule
from dicm_kit.training.part_clock import GATHER, PARTS, PICTURE_PARTS, Instruments, PartClock
from dicm_kit.types import Batch

WARM_UP = 10  # steps that are not measured: the first ones fill caches and ask the system for memory


@dataclass(frozen=True)
class Block:
    """Some steps after one another, on one rank; numbers are per step."""

    seconds: float
    parts: dict[str, float] | None
    """Seconds of each part; None: measured whole, with nothing in between."""
    impressions: float
    references: float
    """To pictures, a history once per sample group."""
    pictures: float
    """Distinct ones that this rank served: V."""
    ahead: dict[str, float]
    """Seconds of what was begun ahead of its step, beside the step before; empty where nothing was."""


@dataclass(frozen=True)
class Measured:
    """What `dicm bench` prints: per step, in seconds; means over ranks unless said otherwise."""

    steps: int
    """Measured, on each rank; half of them whole, half in parts."""
    ranks: int
    whole: float
    in_parts: float
    parts: dict[str, float]
    """Adds up to `in_parts`."""
    impressions: float
    """Over all ranks, as the next two."""
    references: float
    pictures: float
    """V: each rank's, added up; with `image_server` and on one rank, the distinct pictures of the batch."""
    ahead: dict[str, float]
    """Seconds of what was begun ahead of its step: no parts of a step, which only waits for what is not ready."""
    floor: Floor | None
    """Of one rank, for its share of V; None: the recipe has no pictures."""

    @property
    def picture_parts(self) -> frozenset[str]:
        """Of which parts the floor is the floor; behind a trained backbone nothing wide is gathered."""
        if self.floor is None:
            return frozenset()
        return PICTURE_PARTS if self.floor.bytes else PICTURE_PARTS - {GATHER}

    @property
    def picture_part(self) -> float:
        """Seconds of these parts, the gather that was begun ahead of its step included."""
        ahead = self.ahead.get("lookup", 0.0) if GATHER in self.picture_parts else 0.0
        return sum(self.parts.get(part, 0.0) for part in self.picture_parts) + ahead


class MeasureSteps(pl.Callback):
    """Measures a fit in blocks of steps, by turns whole and in parts, after `WARM_UP` steps; collective at the end."""

    def __init__(self, steps: int, dtype: torch.dtype):
        assert steps >= 8, "two blocks of each kind, at least"
        self.block = min(5, steps // 8)
        self.steps = steps // (2 * self.block) * 2 * self.block
        self.measured: Measured | None = None
        self._dtype = dtype
        self._blocks: list[Block] = []
        self._done = self._impressions = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gets the clock ready."""
        assert isinstance(pl_module, CtrModule), "a recipe trains a CtrModule"
        device = trainer.strategy.root_device
        self._clock = PartClock(lambda: wait_for(device))
        self._instruments = Instruments(trainer, pl_module, self._clock)
        self._in_parts = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Ends a block where one is full, and begins the next."""
        self._done += 1
        self._impressions += batch.num_impressions
        measured = self._done - WARM_UP
        if measured < 0 or measured % self.block:
            return
        server = pl_module.server if isinstance(pl_module.server, ImageServer) else None
        if measured:
            self._end(server)
        if measured < self.steps:
            self._begin(server, trainer.strategy.root_device, in_parts=bool(measured // self.block % 2))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures the machine, and sends everything to every rank."""
        mine: tuple[list[Block], Floor | None] = self._blocks, None
        if isinstance(pl_module.server, ImageServer):
            pictures = sum(block.pictures for block in self._blocks) / len(self._blocks)
            mine = self._blocks, floor_of(pl_module.server, pictures, trainer.strategy.root_device, self._dtype)
        ranks: list[Any] = [mine]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        self.measured = put_together(self.steps, [blocks for blocks, _ in ranks], [floor for _, floor in ranks])

    def _begin(self, server: ImageServer | None, device: torch.device, in_parts: bool) -> None:
        self._in_parts, self._impressions = in_parts, 0
        self._before, self._before_ahead = _counts(server), _ahead(server)
        if in_parts:
            self._instruments.attach()
        self._clock.start()
        self._device, self._since = device, time.perf_counter()

    def _end(self, server: ImageServer | None) -> None:
        wait_for(self._device)
        seconds, parts = time.perf_counter() - self._since, None
        if self._in_parts:
            parts = {part: each / self.block for part, each in self._clock.stop().items()}
            seconds = sum(parts.values()) * self.block
            self._instruments.detach()
        counted = [after - before for after, before in zip(_counts(server), self._before, strict=True)]
        impressions, references, pictures = (number / self.block for number in (self._impressions, *counted))
        ahead = {leg: (after - self._before_ahead[leg]) / self.block for leg, after in _ahead(server).items()}
        ahead = {leg: each for leg, each in ahead.items() if each and leg != "wait"} if ahead.get("wait") else {}
        self._blocks.append(Block(seconds / self.block, parts, impressions, references, pictures, ahead))


def _ahead(server: ImageServer | None) -> dict[str, float]:
    """Returns the seconds since the start of what can be begun ahead, and of the waiting for it."""
    if server is None:
        return {}
    legs = ("sizes", "keys", "lookup", "wait", *(("vectors",) if server.sends_ahead else ()))
    return {leg: getattr(server.exchange.traffic, f"{leg}_seconds") for leg in legs}


def _counts(server: ImageServer | None) -> tuple[int, int]:
    return (server.counters["references"], server.exchange.traffic.served) if server else (0, 0)


def put_together(steps: int, of_ranks: list[list[Block]], floors: list[Floor | None]) -> Measured:
    """Returns means over ranks, and over the middle half of the blocks of each kind: others may use the machine too.

    All impressions and pictures count. A floor is that of the mean share of a rank, at the mean rates of the ranks.
    """
    blocks = list(zip(*of_ranks, strict=True))
    whole = _middle([each for each in blocks if each[0].parts is None])
    apart = _middle([each for each in blocks if each[0].parts is not None])
    ranks, found = len(of_ranks), [each for each in floors if each is not None]
    parts = {
        part: sum((block.parts or {}).get(part, 0.0) for each in apart for block in each) / len(apart) / ranks
        for part in PARTS
        if any(part in (block.parts or {}) for each in apart for block in each)
    }
    mean_floor = None
    if found:
        values = ("operations", "bytes", "operations_per_second", "bytes_per_second")
        mean_floor = Floor(*(sum(getattr(floor, name) for floor in found) / ranks for name in values))
    return Measured(
        steps=steps,
        ranks=ranks,
        whole=sum(block.seconds for each in whole for block in each) / len(whole) / ranks,
        in_parts=sum(block.seconds for each in apart for block in each) / len(apart) / ranks,
        parts=parts,
        ahead={
            leg: sum(block.ahead.get(leg, 0.0) for each in whole for block in each) / len(whole) / ranks
            for leg in whole[0][0].ahead
        },
        floor=mean_floor,
        **{
            name: sum(getattr(block, name) for each in blocks for block in each) / len(blocks)
            for name in ("impressions", "references", "pictures")
        },
    )


def _middle(blocks: list[tuple[Block, ...]]) -> list[tuple[Block, ...]]:
    in_order = sorted(blocks, key=lambda of_ranks: sum(block.seconds for block in of_ranks))
    cut = len(in_order) // 4
    return in_order[cut : len(in_order) - cut]
