"""All vectors -> logit: embedding and MLP, the paper's basic net."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from dicm_kit.interfaces import BaseNet, NetShapes
from dicm_kit.nets.layers import Activation, SideBySide, check_layers, fully_connected, in_full
from dicm_kit.types import Encoded, Interest, Pictures


@dataclass
class EmbeddingMlpConfig:
    """All vectors side by side, through fully connected layers, to one logit."""

    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the layers between the vectors and the logit."""
    dropout: float = 0.0
    """Share of a hidden layer's outputs dropped while training."""
    activation: Activation = "prelu"
    """After each hidden layer; the paper found prelu better than relu. `dice` is DIN's (arXiv:1706.06978, section 5.3):
    its turning point follows the batch, so that a batch's impressions depend on each other while training."""


class EmbeddingMlp(BaseNet):
    """The paper's Embedding&MLP, arXiv:1711.06505, section 3.2 and figure 2; its layer widths are not in the paper.

    Reads user, target, context, the target's picture and the interest vectors. History vectors enter only through
    their interest vectors.
    """

    requires_untargeted = False

    def __init__(
        self,
        shapes: NetShapes,
        hidden: tuple[int, ...] = (128, 64),
        dropout: float = 0.0,
        activation: Activation = "prelu",
    ):
        super().__init__()
        self.uses_batch = activation == "dice"
        self.inputs = SideBySide(shapes)
        self.layers = fully_connected(self.inputs.width, hidden, dropout, activation)
        self.logit = nn.Linear((self.inputs.width, *hidden)[-1], 1)

    def forward(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns logits [N], float32 also under bf16: in bf16, whose steps near 1 are 0.008, scores would tie."""
        hidden_ND = self.layers(self.inputs(encoded, pictures, interest))
        return in_full(self.logit, hidden_ND).squeeze(-1)


def build_embedding_mlp(config: EmbeddingMlpConfig, shapes: NetShapes) -> EmbeddingMlp:
    """Makes the net for the recipe's vectors."""
    check_layers(config.hidden, config.dropout)
    return EmbeddingMlp(shapes, tuple(config.hidden), config.dropout, config.activation)
