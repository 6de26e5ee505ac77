"""`image_server`: Lightning's `ddp`, with the pictures shared out over the ranks (the paper's AMS, section 5)."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dicm_kit.features.tables import sparse_parameters
from dicm_kit.images.server import ImageServer

NAME = "image_server"
"""In Lightning's registry, and in a recipe's `trainer.strategy`."""


class ImageServerStrategy(DDPStrategy):
    """`ddp` for every parameter; and every `ImageServer` of the module gets its partitions and a group of its own.

    `Trainer(strategy="image_server")` after an import of this file, or `Trainer(strategy=ImageServerStrategy())`.
    Everything is as with `ddp` but where a picture is looked up and embedded: at its owner, once per step. Its
    gradient there is the sum over all ranks, so the mean over ranks that DDP makes of the embedder's gradients is
    what `ddp` would give: docs/explanation/image_server.md has the derivation.
    DDP arranges its buckets anew after its first step, and with them the order of sums, so that a resumed run would
    not be bit-identical. Here that is done before the first step, by two steps without data.
    """

    def __init__(self, **options: Any):
        """Takes what `DDPStrategy` takes."""
        super().__init__(**options)
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

    def configure_ddp(self) -> None:
        """Wraps the module, and lets DDP settle its buckets."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel), "wrapped above"
        _settle_buckets(self.model)

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


def _settle_buckets(ddp: DistributedDataParallel) -> None:
    """Runs two steps whose loss is 0 * every parameter: DDP notes an order in the first and takes it in the second.

    Collective. No gradient stays behind.
    """
    module = ddp.module
    sparse = {id(each) for each in sparse_parameters(module)}
    trained = [each for each in module.parameters() if each.requires_grad]

    def touch() -> torch.Tensor:
        no_rows = torch.empty(0, dtype=torch.int64, device=trained[0].device)
        # no row of a table is a gradient as sparse as DDP expects it
        used = [F.embedding(no_rows, each, sparse=True) if id(each) in sparse else each for each in trained]
        return torch.stack([0 * each.sum() for each in used]).sum()

    module.forward = touch
    try:
        for _ in range(2):
            ddp().backward()
    finally:
        del module.forward  # the class's own is there again
    for each in trained:
        each.grad = None


def _servers(module: torch.nn.Module) -> list[ImageServer]:
    return [each for each in module.modules() if isinstance(each, ImageServer)]


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, ImageServerStrategy, description="ddp with the pictures shared out over the ranks")
