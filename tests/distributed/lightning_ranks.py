"""Lightning's own `ddp` inside the pool of ranks, whose process group is already there."""

from typing import Any

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy


class PoolEnvironment(ClusterEnvironment):
    """Says to Lightning who it is; the pool has started all processes."""

    def __init__(self, rank: int, num_ranks: int):
        super().__init__()
        self.rank, self.num_ranks = rank, num_ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        return 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.num_ranks

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0


def ddp_trainer(rank: int, num_ranks: int, strategy: type[DDPStrategy] = DDPStrategy, **options: Any) -> Trainer:
    """Returns a quiet Trainer on CPU: `ddp`, or a strategy built on it, on several ranks, `auto` on one."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    if num_ranks > 1:
        environment = PoolEnvironment(rank, num_ranks)
        options["strategy"] = strategy(cluster_environment=environment, process_group_backend="gloo")
    defaults = {"accelerator": "cpu", "devices": num_ranks, "num_sanity_val_steps": 0, **quiet}
    return Trainer(**{**defaults, **options})
