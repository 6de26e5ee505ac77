import pytest
import torch

from dicm_kit.errors import FieldError
from dicm_kit.interfaces import NetShapes
from dicm_kit.nets.mlp import EmbeddingMlpConfig, build_embedding_mlp
from dicm_kit.types import Encoded, Interest, Pictures

SHAPES = NetShapes(
    user={"user_id": 3},
    target={"item_id": 3, "tags": 2},
    context={"hour": 1},
    history={"item_id": 3},
    image=2,
    interest={"images": 4},
)


def inputs(n=5):
    torch.manual_seed(0)
    encoded = Encoded(
        user={"user_id": torch.randn(n, 3)},
        target={"item_id": torch.randn(n, 3), "tags": torch.randn(n, 2)},
        context={"hour": torch.randn(n, 1)},
        history={"item_id": torch.full((n, 7, 3), torch.nan)},
        group_N=torch.arange(n),
    )
    pictures = Pictures(target_NI=torch.randn(n, 2), history_GLI=None, mask_GL=torch.zeros(n, 7, dtype=torch.bool))
    return encoded, pictures, {"images": Interest(torch.randn(n, 4))}


def test_reads_everything_but_the_history_vectors():
    net = build_embedding_mlp(EmbeddingMlpConfig(hidden=[8, 4]), SHAPES)
    assert net.layers[0].in_features == 3 + 3 + 2 + 1 + 2 + 4
    logit = net(*inputs())
    assert logit.shape == (5,)
    assert torch.isfinite(logit).all()
    logit.sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in net.parameters())


def test_every_input_moves_the_logit():
    net = build_embedding_mlp(EmbeddingMlpConfig(), SHAPES)
    encoded, pictures, interest = inputs()
    before = net(encoded, pictures, interest)
    for vectors in (
        encoded.user["user_id"],
        encoded.target["tags"],
        encoded.context["hour"],
        pictures.target_NI,
        interest["images"].vector,
    ):
        vectors[2] += 1.0
        after = net(encoded, pictures, interest)
        changed = (after != before).nonzero().flatten().tolist()
        assert changed == [2]  # and no other impression's
        before = after


def test_no_hidden_layer_is_logistic_regression():
    net = build_embedding_mlp(EmbeddingMlpConfig(hidden=[]), SHAPES)
    encoded, pictures, interest = inputs()
    together = torch.cat(
        [
            encoded.user["user_id"],
            encoded.target["item_id"],
            encoded.target["tags"],
            encoded.context["hour"],
            pictures.target_NI,
            interest["images"].vector,
        ],
        1,
    )
    assert torch.allclose(net(encoded, pictures, interest), net.logit(together).squeeze(1))


def test_logits_are_float32_under_bf16():
    net = build_embedding_mlp(EmbeddingMlpConfig(), SHAPES)
    exact = net(*inputs(400))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(*inputs(400))
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, atol=0.05)
    assert len(rough.unique()) > 390  # bf16 logits would tie


def test_dropout_only_while_training():
    net = build_embedding_mlp(EmbeddingMlpConfig(dropout=0.5, activation="relu"), SHAPES)
    same = inputs()
    assert not torch.equal(net(*same), net(*same))
    net.eval()
    assert torch.equal(net(*same), net(*same))


@pytest.mark.parametrize("activation", ["prelu", "relu", "dice"])
def test_an_impression_depends_on_others_only_where_declared(activation):
    net = build_embedding_mlp(EmbeddingMlpConfig(activation=activation), SHAPES)
    assert net.uses_batch is (activation == "dice")
    for training in (True, False):
        net.train(training)
        encoded, pictures, interest = inputs()
        before = net(encoded, pictures, interest)[:4]
        pictures.target_NI[4] += 5.0
        assert torch.equal(before, net(encoded, pictures, interest)[:4]) is not (training and net.uses_batch)


@pytest.mark.parametrize("activation", ["prelu", "relu", "dice"])
def test_no_impressions(activation):
    net = build_embedding_mlp(EmbeddingMlpConfig(activation=activation), SHAPES)
    net(*inputs(0)).sum().backward()
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in net.parameters())


@pytest.mark.parametrize(
    ("config", "field"), [(EmbeddingMlpConfig(hidden=[0]), "hidden"), (EmbeddingMlpConfig(dropout=1.0), "dropout")]
)
def test_refuses_values_out_of_range(config, field):
    with pytest.raises(FieldError) as caught:
        build_embedding_mlp(config, SHAPES)
    assert caught.value.field == field
