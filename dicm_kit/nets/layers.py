"""What nets are made of: which vectors they read side by side, and fully connected layers."""

from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit.errors import FieldError
from dicm_kit.interfaces import NetShapes
from dicm_kit.nets.dice import Dice
from dicm_kit.prelu import PReLU
from dicm_kit.types import Encoded, Interest, Pictures

Side = Literal["user", "target", "context"]
Activation = Literal["prelu", "relu", "dice"]


class SideBySide:
    """The vectors a net reads, concatenated: columns of `sides`, the target's picture, interests, in this order."""

    def __init__(
        self,
        shapes: NetShapes,
        sides: tuple[Side, ...] = ("user", "target", "context"),
        *,
        image: bool = True,
        interest: bool = True,
    ):
        dims: dict[Side, dict[str, int]] = {
            "user": shapes.user,
            "target": shapes.target,
            "context": shapes.context,
        }
        self.columns = [(side, name) for side in sides for name in dims[side]]
        self.image = image and shapes.image is not None
        self.interest = tuple(shapes.interest) if interest else ()
        self.width = sum(dims[side][name] for side, name in self.columns)
        self.width += sum(shapes.interest[slot] for slot in self.interest)
        self.width += (shapes.image or 0) if image else 0

    def __call__(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns [N, width], or [G, width] when all that it reads is of groups."""
        vectors = [getattr(encoded, side)[name] for side, name in self.columns]
        if self.image:
            assert pictures is not None, "the shapes promised a target picture"
            assert pictures.target_NI is not None, "the shapes promised a target picture"
            vectors.append(pictures.target_NI)
        vectors += [interest[slot].vector for slot in self.interest]
        return torch.cat(vectors, dim=-1)


def fully_connected(width: int, hidden: tuple[int, ...], dropout: float, activation: Activation) -> nn.Sequential:
    """Returns layers from `width` to the last of `hidden`, each with its activation and its dropout."""
    layers: list[nn.Module] = []
    for out in hidden:
        layers.append(nn.Linear(width, out))
        layers.append(Dice(out) if activation == "dice" else PReLU() if activation == "prelu" else nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = out
    return nn.Sequential(*layers)


def in_full(linear: nn.Linear, hidden_ND: Tensor) -> Tensor:
    """Returns the layer's output in its own precision, also under bf16, whose steps near 1 are 0.008."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        out: Tensor = linear(hidden_ND.to(linear.weight.dtype))
        return out


def check_layers(hidden: list[int], dropout: float) -> None:
    """Refuses widths below 1 and a dropout that is no share."""
    if any(width < 1 for width in hidden):
        raise FieldError("hidden", f"every width must be at least 1, got {hidden}")
    if not 0.0 <= dropout < 1.0:
        raise FieldError("dropout", f"must be at least 0 and below 1, got {dropout}")
