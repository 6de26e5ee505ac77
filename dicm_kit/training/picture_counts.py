"""What a training's pictures cost, counted over all ranks: in the log, and at the end for the whole run."""

import copy
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dicm_kit.exchange.traffic import Traffic
from dicm_kit.images.server import ImageServer
from dicm_kit.training.module import CtrModule
from dicm_kit.types import Batch


@dataclass(frozen=True)
class PictureCounts:
    """Sums over all ranks and over `steps` training steps; validation and test do not count."""

    steps: int
    ranks: int
    references: int
    """Pictures that impressions refer to, each impression with its own history."""
    grouped: int
    """The same with histories once per sample group."""
    traffic: Traffic
    """`asked`: distinct pictures of each rank, added up; `served`: distinct ones of the whole batch."""


class CountPictures(Callback):
    """Logs `images/*` with every line of the log, per step; `counts` holds the whole training once it has ended.

    Seconds are means over ranks, everything else is added up over them. Counts since a resume begin there.
    """

    def __init__(self) -> None:
        self.counts: PictureCounts | None = None
        self._server: ImageServer | None = None
        self._steps = self._logged_steps = 0
        self._mine = torch.zeros(2, dtype=torch.float64)  # references, grouped
        self._begun, self._logged = Traffic(), Traffic()
        self._before_validation = Traffic()
        self._logged_mine = torch.zeros(2, dtype=torch.float64)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the image server; without one there is nothing to count."""
        server = getattr(pl_module, "server", None)
        self._server = server if isinstance(server, ImageServer) else None
        if self._server is not None:
            self._begun = copy.copy(self._server.exchange.traffic)
            self._logged = copy.copy(self._begun)
            self._mine, self._logged_mine = (torch.zeros(2, dtype=torch.float64, device=pl_module.device) for _ in "ab")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Counts the step; ranks add up (112 bytes) only where a line of the log is written."""
        if self._server is None:
            return
        self._steps += 1
        self._mine += self._references(batch, pl_module)
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        traffic = self._server.exchange.traffic
        counts = _over_ranks(
            self._steps - self._logged_steps, self._mine - self._logged_mine, traffic - self._logged, trainer.world_size
        )
        self._logged_steps, self._logged_mine, self._logged = self._steps, self._mine.clone(), copy.copy(traffic)
        shared = self._server.exchange.num_ranks == trainer.world_size
        pl_module.log_dict(_per_step(counts, shared), batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where validation begins."""
        if self._server is not None:
            self._before_validation = copy.copy(self._server.exchange.traffic)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves out what validation asked for."""
        if self._server is not None:
            asked = self._server.exchange.traffic - self._before_validation
            self._begun, self._logged = self._begun + asked, self._logged + asked

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the whole training up over ranks."""
        if self._server is not None and self._steps:
            traffic = self._server.exchange.traffic - self._begun
            self.counts = _over_ranks(self._steps, self._mine, traffic, trainer.world_size)

    def _references(self, batch: Batch, module: LightningModule) -> torch.Tensor:
        assert isinstance(module, CtrModule), "it has an image server"
        zero = batch.group_N.new_zeros(())
        targets = (batch.target_key_N != 0).sum() if module.image_target else zero
        if not module.image_history:
            return torch.stack([targets, targets])
        of_group_G = ((batch.history_key_GL != 0) & batch.mask_GL).sum(1)
        return torch.stack([targets + of_group_G[batch.group_N].sum(), targets + of_group_G.sum()])


def _over_ranks(steps: int, mine: torch.Tensor, traffic: Traffic, ranks: int) -> PictureCounts:
    """Every rank sends its sums to all: one all-reduce, none on one rank."""
    names = [each.name for each in fields(Traffic)]
    numbers = torch.tensor([getattr(traffic, name) for name in names], dtype=torch.float64, device=mine.device)
    summed = torch.cat([mine, numbers])
    if ranks > 1:
        torch.distributed.all_reduce(summed)
    references, grouped, *values = summed.tolist()
    total: dict[str, Any] = dict(zip(names, values, strict=True))
    total |= {name: int(value) for name, value in total.items() if not name.endswith("_seconds")}
    return PictureCounts(steps, ranks, int(references), int(grouped), Traffic(**total))


def _per_step(counts: PictureCounts, shared: bool) -> dict[str, float]:
    """`shared`: pictures are computed once over all ranks; else nobody knows how many distinct ones all have."""
    steps, traffic = counts.steps, asdict(counts.traffic)
    seconds = {name: value / steps / counts.ranks for name, value in traffic.items() if name.endswith("_seconds")}
    num_bytes = {name: value / steps for name, value in traffic.items() if name.endswith("_bytes")}
    keys = {
        "references": counts.references / steps,
        "grouped": counts.grouped / steps,
        "distinct_on_ranks": counts.traffic.asked / steps,
    }
    if shared:
        keys["distinct"] = counts.traffic.served / steps
    return {f"images/{name}": value for name, value in (keys | num_bytes | seconds).items()}
