"""What a net gets in the tests: every kind of vector, five impressions."""

import torch

from dicm_kit.interfaces import NetShapes
from dicm_kit.types import Encoded, Interest, Pictures

SHAPES = NetShapes(
    user={"user_id": 3},
    target={"item_id": 3, "tags": 2},
    context={"hour": 1},
    history={"item_id": 3},
    image=2,
    interest={"ids": 3, "images": 4},
)


def net_inputs(n=5, context=True):
    torch.manual_seed(0)
    encoded = Encoded(
        user={"user_id": torch.randn(n, 3)},
        target={"item_id": torch.randn(n, 3), "tags": torch.randn(n, 2)},
        context={"hour": torch.randn(n, 1)} if context else {},
        history={"item_id": torch.full((n, 7, 3), torch.nan)},
        group_N=torch.arange(n),
    )
    pictures = Pictures(target_NI=torch.randn(n, 2), history_GLI=None, mask_GL=torch.zeros(n, 7, dtype=torch.bool))
    return encoded, pictures, {"ids": Interest(torch.randn(n, 3)), "images": Interest(torch.randn(n, 4))}


def numpy_of(net):
    """Returns the parameters as float64 arrays, by name."""
    return {name: each.detach().double().numpy() for name, each in net.named_parameters()}
