"""Wide backbone vector -> narrow picture vector: the part that is trained."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dicm_kit.prelu import PReLU


class Standardize(nn.Module):
    """Moves and scales every dimension to mean 0 and deviation 1 by fixed statistics; the identity until they are set.

    Not in the paper, which feeds FC6 as it is. Backbones whose dimensions differ in scale train several times faster.
    """

    shift_C: Tensor
    scale_C: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("shift_C", torch.zeros(dim))
        self.register_buffer("scale_C", torch.ones(dim))

    def set(self, mean_C: Float[Tensor, " C"], deviation_C: Float[Tensor, " C"]) -> None:
        """Takes the statistics. A dimension that never changes becomes 0."""
        scale_C = torch.where(deviation_C > 1e-6 * mean_C.abs().clamp_min(1e-6), 1 / deviation_C, 0)
        self.scale_C.copy_(scale_C)
        self.shift_C.copy_(-mean_C * scale_C)

    def forward(self, vectors_VC: Float[Tensor, "V C"]) -> Float[Tensor, "V C"]:
        """Returns the vectors, moved and scaled, in their own type."""
        return torch.addcmul(self.shift_C.to(vectors_VC.dtype), vectors_VC, self.scale_C.to(vectors_VC.dtype))


class Embedder(nn.Sequential):
    """A small net, 4096-256-64-12 with PReLU in the paper (arXiv:1711.06505, section 4.1).

    PReLU stands between the layers; the last one is linear, so that a picture's vector may point anywhere. With
    `standardize`, a `Standardize` comes first, whose statistics are the feature store's.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int] = (256, 64),
        dim: int = 12,
        dropout: float = 0.0,
        standardize: bool = False,
    ):
        super().__init__()
        self.in_dim, self.dim = in_dim, dim
        if standardize:
            self.append(Standardize(in_dim))
        for width in hidden:
            self.append(nn.Linear(in_dim, width)).append(PReLU())
            if dropout:
                self.append(nn.Dropout(dropout))
            in_dim = width
        self.append(nn.Linear(in_dim, dim))

    def forward(self, vectors_VC: Float[Tensor, "V C"]) -> Float[Tensor, "V I"]:
        """Returns picture vectors [V, I]."""
        return super().forward(vectors_VC)
