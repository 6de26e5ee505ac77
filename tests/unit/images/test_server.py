"""The image-server step on one rank: each picture once, gradients to every part, nothing for what is missing."""

from pathlib import Path

import pytest
import torch
from pictures import MeanColour, write_shards
from torch import Tensor, nn

from dicm_kit.errors import ImageError
from dicm_kit.images.backbone import TimmBackbone
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.images.store import PixelStore
from dicm_kit.prelu import PReLU

MASK = torch.tensor([[True, True, False], [True, False, False]])


class Store:
    """The keys 1 to 9 as vectors (key, 1); counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def lookup(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(keys_U.tolist())
        return torch.stack([keys_U % 100, torch.ones_like(keys_U)], 1).half(), keys_U < 10


def linear_server(**options) -> tuple[ImageServer, Store]:
    store, embedder = Store(), Embedder(2, hidden=(), dim=2)
    embedder[0].weight.data = torch.eye(2)
    embedder[0].bias.data = torch.tensor([0.0, 0.5])
    return ImageServer(store, embedder, **options), store


def test_by_hand() -> None:
    server, store = linear_server()
    pictures = server(torch.tensor([4, 0, 7, 4]), torch.tensor([[7, 44, 8], [4, 0, 0]]), MASK)
    assert store.asked == [[4, 7, 44]]  # each once, none for key 0, none for the slot that is masked
    assert pictures.target_NI.tolist() == [[4, 1.5], [0, 0], [7, 1.5], [4, 1.5]]
    zeros = [0.0, 0.0]
    assert pictures.history_GLI.tolist() == [[[7, 1.5], zeros, zeros], [[4, 1.5], zeros, zeros]]
    assert pictures.mask_GL.tolist() == [[True, False, False], [True, False, False]]
    assert server.counters == {"steps": 1, "references": 6, "distinct": 3}
    assert server.dim == 2
    (pictures.target_NI.sum() + 10 * pictures.history_GLI.sum()).backward()
    # picture 4: targets 0 and 3 and a history slot, 1 + 1 + 10; picture 7: 1 + 10; the unknown 44 has no part
    assert server.embedder[0].bias.grad.tolist() == [23, 23]
    assert server.embedder[0].weight.grad.tolist() == [[12 * 4 + 11 * 7, 23]] * 2


def test_only_targets_only_history_or_none() -> None:
    server, store = linear_server()
    keys_N, keys_GL = torch.tensor([4, 7]), torch.tensor([[7, 4, 0], [0, 0, 0]])
    targets = server(keys_N, None, MASK)
    assert targets.target_NI.shape == (2, 2)
    assert targets.history_GLI is None
    assert not targets.mask_GL.any()
    history = server(None, keys_GL, MASK)
    assert history.target_NI is None
    assert history.history_GLI.shape == (2, 3, 2)
    assert history.mask_GL.tolist() == [[True, True, False], [False, False, False]]
    nothing = server(None, None, MASK)
    assert (nothing.target_NI, nothing.history_GLI) == (None, None)
    assert len(store.asked) == 2


def test_missing_pictures_are_named_where_that_is_asked() -> None:
    server, _ = linear_server(missing="error")
    assert server(torch.tensor([4, 0]), None, MASK).target_NI[0].tolist() == [4, 1.5]
    with pytest.raises(ImageError, match="the store has no picture 10, 11, 12, 13, 14 and 2 more") as caught:
        server(torch.tensor([4, *range(10, 17)]), None, MASK)
    assert caught.value.where == "`images.missing`"


def test_without_impressions_and_pictures_every_parameter_still_gets_a_gradient() -> None:
    server, store = linear_server()
    empty = torch.empty(0, dtype=torch.int64)
    for target_N, history_GL in (
        (empty, torch.empty(0, 3, dtype=torch.int64)),
        (torch.zeros(3).long(), MASK.long() * 0),
    ):
        mask_GL = torch.ones_like(history_GL, dtype=torch.bool)
        pictures = server(target_N, history_GL, mask_GL)
        assert pictures.target_NI.shape == (len(target_N), 2)
        server.zero_grad()
        (pictures.target_NI.sum() + pictures.history_GLI.sum()).backward()
        assert all(parameter.grad is not None for parameter in server.parameters())
        assert not any(parameter.grad.any() for parameter in server.parameters())
    assert store.asked == [[], []]


def test_a_trained_backbone_sees_each_picture_once_and_learns(tmp_path: Path) -> None:
    keys = list(write_shards(tmp_path, range(5)))
    backbone = MeanColour(frozen=False)
    server = ImageServer(PixelStore(tmp_path, backbone.transform), Embedder(3, (4,), 2), backbone)
    history_GL = torch.tensor([[keys[1], keys[0], 0], [keys[2], 0, 0]])
    pictures = server(torch.tensor([keys[0], keys[1], keys[0], 77]), history_GL, MASK)
    assert backbone.rows == [4]  # three known pictures and 77, in one forward
    pictures.history_GLI.square().sum().backward()
    assert backbone.scale.grad.abs().sum() > 0
    # the same without the server
    plain = Embedder(3, (4,), 2)
    plain.load_state_dict(server.embedder.state_dict())
    expected = plain(backbone(server.store.lookup(torch.tensor(keys[:3]))[0]))
    torch.testing.assert_close(pictures.target_NI[:3], expected[[0, 1, 0]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pictures.history_GLI[0, :2], expected[[1, 0]], rtol=1e-5, atol=1e-6)
    assert not pictures.target_NI[3].any()


def test_a_trained_timm_model_stays_connected_without_pictures(tmp_path: Path) -> None:
    keys = list(write_shards(tmp_path, range(2)))
    backbone = TimmBackbone("test_resnet", "none", trainable="all", image_size=32)
    server = ImageServer(PixelStore(tmp_path, backbone.transform), Embedder(backbone.out_dim, (), 2), backbone).train()
    trained = [parameter for parameter in server.parameters() if parameter.requires_grad]
    server(torch.tensor([0]), None, MASK).target_NI.sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
    assert not any(parameter.grad.any() for parameter in trained)
    server(torch.tensor([keys[0], 0, keys[1]]), None, MASK).target_NI.square().sum().backward()
    assert next(backbone.model.conv1.parameters()).grad.abs().sum() > 0


def test_autocast_changes_little_and_gives_float32() -> None:
    torch.manual_seed(0)
    server = ImageServer(Store(), Embedder(2, (8,), 4))
    keys_N = torch.tensor([4, 7, 4])
    exact = server(keys_N, None, MASK).target_NI
    seen = []
    server.embedder[0].register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype))
    )
    with torch.autocast("cpu", torch.bfloat16):
        rough = server(keys_N, None, MASK).target_NI
    rough.sum().backward()
    assert seen == [(torch.bfloat16, torch.bfloat16)]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


def test_more_distinct_pictures_than_allowed() -> None:
    server, store = linear_server(max_distinct=2)
    server(torch.tensor([4, 4, 7]), None, MASK)
    with pytest.raises(ImageError, match="a step has 3 distinct pictures for this rank, more than 2") as caught:
        server(torch.tensor([4, 7, 8]), None, MASK)
    assert caught.value.where == "`images.max_distinct`"
    assert store.asked == [[4, 7]]


def test_a_broken_net_is_not_taken_for_missing_pictures() -> None:
    server, _ = linear_server()
    server.embedder[0].weight.data.fill_(float("nan"))
    pictures = server(torch.tensor([4]), torch.tensor([[4, 0, 0], [0, 0, 0]]), MASK)
    assert pictures.target_NI.isnan().all()
    assert pictures.mask_GL[0, 0]


def test_the_papers_embedder() -> None:
    embedder = Embedder(4096)
    shapes = [tuple(layer.weight.shape) for layer in embedder if isinstance(layer, nn.Linear)]
    assert shapes == [(256, 4096), (64, 256), (12, 64)]
    assert [type(layer) for layer in embedder] == [nn.Linear, PReLU, nn.Linear, PReLU, nn.Linear]
    assert embedder(torch.zeros(0, 4096)).shape == (0, 12)
    assert sum(isinstance(layer, nn.Dropout) for layer in Embedder(8, dropout=0.5)) == 2
