"""`image_server`: Lightning's `ddp`, with the pictures shared out over the ranks (the paper's AMS, section 5)."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from dicm_kit.images.server import ImageServer

NAME = "image_server"
"""In Lightning's registry, and in a recipe's `trainer.strategy`."""


class ImageServerStrategy(DDPStrategy):
    """`ddp` for every parameter; and every `ImageServer` of the module gets its partitions and a group of its own.

    `Trainer(strategy="image_server")` after an import of this file, or `Trainer(strategy=ImageServerStrategy())`.
    Everything is as with `ddp` but where a picture is looked up and embedded: at its owner, once per step. Its
    gradient there is the sum over all ranks, so the mean over ranks that DDP makes of the embedder's gradients is
    what `ddp` would give: docs/explanation/image_server.md has the derivation.

    `find_unused_parameters` is on unless it is given: DDP then keeps its buckets as they are, where it would otherwise
    arrange them anew after the first step, and with them the order of sums; a resumed run would not be bit-identical.
    """

    def __init__(self, *, find_unused_parameters: bool = True, **options: Any):
        super().__init__(find_unused_parameters=find_unused_parameters, **options)
        self._groups: list[torch.distributed.ProcessGroup] = []

    def setup(self, trainer: pl.Trainer) -> None:
        """Makes the groups and shares the pictures out, on every rank, before DDP is wrapped round the module."""
        self._leave()
        module = self.lightning_module
        assert module is not None, "Lightning connects the module first"
        for server in _servers(module):
            group = torch.distributed.new_group(backend=self._get_process_group_backend(), timeout=self._timeout)
            assert isinstance(group, torch.distributed.ProcessGroup), "every rank is in it"
            self._groups.append(group)
            server.spread(group)
        super().setup(trainer)

    def teardown(self) -> None:
        """Leaves the groups; `ImageServer.gather` makes the module usable on one rank."""
        super().teardown()
        self._leave()

    def _leave(self) -> None:
        module = self.lightning_module
        for server in _servers(module) if module is not None and self._groups else ():
            server.part()
        for group in self._groups:
            torch.distributed.destroy_process_group(group)
        self._groups = []


def _servers(module: torch.nn.Module) -> list[ImageServer]:
    return [each for each in module.modules() if isinstance(each, ImageServer)]


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, ImageServerStrategy, description="ddp with the pictures shared out over the ranks")
