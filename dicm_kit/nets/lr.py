"""All vectors -> logit: logistic regression."""

from dataclasses import dataclass

from torch import Tensor, nn

from dicm_kit.interfaces import BaseNet, NetShapes
from dicm_kit.nets.layers import SideBySide, in_full
from dicm_kit.types import Encoded, Interest, Pictures


@dataclass
class LrConfig:
    """Logistic regression: all vectors side by side, through one linear layer, to one logit."""


class LogisticRegression(BaseNet):
    """logit = w x + b, with x the vectors side by side: the LR of the paper's figure 5, arXiv:1711.06505.

    x has the user's, target's and context's columns, the target's picture and the interests; [N, D] -> [N]. An id's
    part w_c E_c[id] is one number per id, as in a regression on one-hot ids, however wide the table. No vector meets
    another here: with aggregators that look at no target (`sum`), nothing is matched with anything.
    """

    requires_untargeted = False

    def __init__(self, shapes: NetShapes):
        super().__init__()
        self.inputs = SideBySide(shapes)
        self.logit = nn.Linear(self.inputs.width, 1)

    def forward(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns logits [N], float32 also under bf16."""
        return in_full(self.logit, self.inputs(encoded, pictures, interest)).squeeze(-1)


def build_lr(config: LrConfig, shapes: NetShapes) -> LogisticRegression:
    """Makes the regression on the recipe's vectors."""
    return LogisticRegression(shapes)
