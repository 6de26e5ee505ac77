"""All vectors -> logit: two towers that meet in an inner product, for pre-ranking."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dicm_kit.errors import FieldError
from dicm_kit.interfaces import BaseNet, NetShapes
from dicm_kit.nets.layers import Activation, SideBySide, check_layers, fully_connected, in_full
from dicm_kit.types import Encoded, Interest, Pictures


@dataclass
class TwoTowerConfig:
    """Pre-rank: a user vector and an item vector that know nothing of each other; their inner product is the logit."""

    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the hidden layers of both towers."""
    dim: int = 16
    """Width of the user vector and of the item vector."""
    dropout: float = 0.0
    """Share of a hidden layer's outputs dropped while training."""
    activation: Activation = "prelu"
    """After each hidden layer; `dice` depends on the batch while training."""
    temperature: float = 1.0
    """What the inner product is divided by; the paper's is 1."""


class TwoTower(BaseNet):
    """The paper's pre-rank model, arXiv:1711.06505, table 8: logit = u v / temperature + b.

    u = MLP(user columns, interests) [G, D], v = MLP(target columns, the target's picture) [N, D]; b is one trained
    number for the click rate, which the paper does not name and which moves no ranking. The item vectors of a whole
    shop can be computed beforehand and searched by inner product. So that they can, no interest may look at the target,
    and there are no context columns: they belong to neither tower.
    """

    requires_untargeted = True

    def __init__(
        self,
        shapes: NetShapes,
        hidden: tuple[int, ...] = (128, 64),
        dim: int = 16,
        dropout: float = 0.0,
        activation: Activation = "prelu",
        temperature: float = 1.0,
    ):
        super().__init__()
        self.uses_batch = activation == "dice"
        self.of_user = SideBySide(shapes, ("user",), image=False)
        self.of_item = SideBySide(shapes, ("target",), interest=False)
        self.user = fully_connected(self.of_user.width, hidden, dropout, activation)
        self.item = fully_connected(self.of_item.width, hidden, dropout, activation)
        self.user_out = nn.Linear((self.of_user.width, *hidden)[-1], dim)
        self.item_out = nn.Linear((self.of_item.width, *hidden)[-1], dim)
        self.bias = nn.Parameter(torch.zeros(()))
        self.temperature = temperature

    def forward(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns logits [N], float32 also under bf16."""
        user_ND, item_ND = self.towers(encoded, pictures, interest)
        return (user_ND * item_ND).sum(dim=-1) / self.temperature + self.bias

    def towers(
        self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]
    ) -> tuple[Tensor, Tensor]:
        """Returns user vectors and item vectors, float32: [G, D] of groups that are not repeated, and [N, D]."""
        user_GD = in_full(self.user_out, self.user(self.of_user(encoded, pictures, interest)))
        item_ND = in_full(self.item_out, self.item(self.of_item(encoded, pictures, interest)))
        return user_GD, item_ND


def build_two_tower(config: TwoTowerConfig, shapes: NetShapes) -> TwoTower:
    """Makes the towers for the recipe's vectors."""
    check_layers(config.hidden, config.dropout)
    if config.dim < 1:
        raise FieldError("dim", f"must be at least 1, got {config.dim}")
    if not 0.0 < config.temperature < float("inf"):
        raise FieldError("temperature", f"must be above 0, got {config.temperature}")
    if not (shapes.user or shapes.interest):
        todo = "Give `features.user` a column, or `interest` a slot."
        raise FieldError("name", "the user's tower has nothing to read: no user column and no interest", todo=todo)
    if not (shapes.target or shapes.image):
        todo = "Give `features.target` a column, or set `images.target: true`."
        raise FieldError("name", "the item's tower has nothing to read: no target column and no picture", todo=todo)
    return TwoTower(shapes, tuple(config.hidden), config.dim, config.dropout, config.activation, config.temperature)
