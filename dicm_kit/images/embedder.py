"""Wide backbone vector -> narrow picture vector: the part that is trained."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from dicm_kit.prelu import PReLU


class Embedder(nn.Sequential):
    """A small net, 4096-256-64-12 with PReLU in the paper (arXiv:1711.06505, section 4.1).

    PReLU stands between the layers; the last one is linear, so that a picture's vector may point anywhere.
    """

    def __init__(self, in_dim: int, hidden: Sequence[int] = (256, 64), dim: int = 12, dropout: float = 0.0):
        super().__init__()
        self.in_dim, self.dim = in_dim, dim
        for width in hidden:
            self.append(nn.Linear(in_dim, width)).append(PReLU())
            if dropout:
                self.append(nn.Dropout(dropout))
            in_dim = width
        self.append(nn.Linear(in_dim, dim))

    def forward(self, vectors_VC: Float[Tensor, "V C"]) -> Float[Tensor, "V I"]:
        """Returns picture vectors [V, I]."""
        return super().forward(vectors_VC)
