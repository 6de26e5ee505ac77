"""All vectors -> logit: embedding and MLP, the paper's basic net."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit.errors import FieldError
from dicm_kit.interfaces import BaseNet, NetShapes
from dicm_kit.prelu import PReLU
from dicm_kit.types import Encoded, Interest, Pictures


@dataclass
class EmbeddingMlpConfig:
    """All vectors side by side, through fully connected layers, to one logit."""

    hidden: list[int] = field(default_factory=lambda: [128, 64])
    """Widths of the layers between the vectors and the logit."""
    dropout: float = 0.0
    """Share of a hidden layer's outputs dropped while training."""
    activation: Literal["prelu", "relu"] = "prelu"
    """After each hidden layer; the paper found prelu better."""


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
        activation: Literal["prelu", "relu"] = "prelu",
    ):
        super().__init__()
        self.user, self.target, self.context = tuple(shapes.user), tuple(shapes.target), tuple(shapes.context)
        self.image = shapes.image is not None
        self.interest = tuple(shapes.interest)
        width = sum(sum(dims.values()) for dims in (shapes.user, shapes.target, shapes.context, shapes.interest))
        width += shapes.image or 0
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(width, out), PReLU() if activation == "prelu" else nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = out
        self.layers = nn.Sequential(*layers)
        self.logit = nn.Linear(width, 1)

    def forward(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns logits [N], float32 also under bf16: in bf16, whose steps near 1 are 0.008, scores would tie."""
        vectors = [encoded.user[name] for name in self.user]
        vectors += [encoded.target[name] for name in self.target]
        vectors += [encoded.context[name] for name in self.context]
        if self.image:
            assert pictures is not None, "the shapes promised a target picture"
            assert pictures.target_NI is not None, "the shapes promised a target picture"
            vectors.append(pictures.target_NI)
        vectors += [interest[slot].vector for slot in self.interest]
        hidden_ND = self.layers(torch.cat(vectors, dim=-1))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            return self.logit(hidden_ND.to(self.logit.weight.dtype)).squeeze(-1)


def build_embedding_mlp(config: EmbeddingMlpConfig, shapes: NetShapes) -> EmbeddingMlp:
    """Makes the net for the recipe's vectors."""
    if any(width < 1 for width in config.hidden):
        raise FieldError("hidden", f"every width must be at least 1, got {config.hidden}")
    if not 0.0 <= config.dropout < 1.0:
        raise FieldError("dropout", f"must be at least 0 and below 1, got {config.dropout}")
    return EmbeddingMlp(shapes, tuple(config.hidden), config.dropout, config.activation)
