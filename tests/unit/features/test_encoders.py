import pytest
import torch

from dicm_kit.errors import FieldError
from dicm_kit.features.encoders import (
    HashConfig,
    IdConfig,
    IdsConfig,
    IdsEncoder,
    NumberConfig,
    NumberEncoder,
    build_hash,
    build_id,
    build_ids,
    build_number,
)
from dicm_kit.features.tables import hash_rows, sparse_parameters
from dicm_kit.interfaces import ColumnShape
from dicm_kit.types import Bag


def test_id_of_any_shape():
    encoder = build_id(IdConfig(dim=3), ColumnShape("id", 5))
    rows = encoder.table.rows.weight
    assert torch.equal(encoder(torch.tensor([4, 0, 4])), rows[[4, 0, 4]])
    assert encoder(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 3)
    assert encoder(torch.zeros(0, dtype=torch.int64)).shape == (0, 3)
    assert encoder.out_dim == 3


def test_unknown_id_has_a_row_of_its_own_that_is_trained():
    encoder = build_id(IdConfig(dim=3), ColumnShape("id", 5))
    encoder(torch.tensor([0, 2, 2])).sum().backward()
    grad = encoder.table.rows.weight.grad
    assert grad.is_sparse
    assert torch.equal(grad.to_dense().sum(1), torch.tensor([3.0, 0.0, 6.0, 0.0, 0.0]))


def test_rows_start_small():
    weight = build_id(IdConfig(dim=16), ColumnShape("id", 10_000)).table.rows.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean().item()) < 1e-4


@pytest.mark.parametrize(("pooling", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_ids_pool_each_row(pooling, factor):
    encoder = IdsEncoder(6, 2, pooling)
    rows = encoder.table.rows.weight
    bag = Bag(torch.tensor([1, 5, 3]), torch.tensor([0, 2, 2, 3]), (3,))
    pooled = encoder(bag)
    assert torch.allclose(pooled[0], factor * (rows[1] + rows[5]))
    assert torch.equal(pooled[1], torch.zeros(2))  # a row without ids
    assert torch.allclose(pooled[2], rows[3])
    pooled.sum().backward()
    assert rows.grad.is_sparse


def test_ids_of_a_history_keep_its_shape():
    encoder = build_ids(IdsConfig(dim=2), ColumnShape("ids", 6))
    bag = Bag(torch.tensor([1, 2]), torch.tensor([0, 1, 1, 1, 1, 1, 2]), (2, 3))
    assert encoder(bag).shape == (2, 3, 2)
    empty = Bag(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), (0,))
    assert encoder(empty).shape == (0, 2)


def test_hash_rows_are_in_the_table_for_any_64_bits():
    values = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 10])
    rows = hash_rows(values, 10)
    assert rows[0] == 0  # no value
    assert rows[1:].min() >= 1
    assert rows.max() <= 10
    assert rows[1] == 2  # 1 + 1 % 10
    assert rows[5] == 1
    encoder = build_hash(HashConfig(dim=2, buckets=10), ColumnShape("hash", None))
    assert encoder(values).shape == (6, 2)


def test_number_is_transformed_then_linear():
    encoder = NumberEncoder(3, "log1p", mean=1.0, scale=2.0)
    values = torch.tensor([0.0, 10.0, -10.0])
    scaled = (torch.tensor([0.0, torch.tensor(11.0).log(), -torch.tensor(11.0).log()]) - 1.0) / 2.0
    expected = scaled[:, None] * encoder.weight_D + encoder.bias_D
    assert torch.allclose(encoder(values), expected)
    plain = build_number(NumberConfig(dim=2, transform="asinh"), ColumnShape("number", None))
    assert torch.allclose(plain(values)[1], torch.tensor(10.0).asinh() * plain.weight_D)
    assert plain(torch.zeros(2, 4)).shape == (2, 4, 2)


def test_number_keeps_float32_in_bf16_training():
    encoder = NumberEncoder(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(torch.tensor([1.001]))
    assert torch.equal(out[0], 1.001 * encoder.weight_D)


@pytest.mark.parametrize(
    ("build", "config", "kind", "field"),
    [
        (build_id, IdConfig(), "number", "name"),
        (build_ids, IdsConfig(), "id", "name"),
        (build_hash, HashConfig(), "id", "name"),
        (build_number, NumberConfig(), "hash", "name"),
        (build_id, IdConfig(dim=0), "id", "dim"),
        (build_hash, HashConfig(buckets=0), "hash", "buckets"),
        (build_number, NumberConfig(scale=0.0), "number", "scale"),
    ],
)
def test_refuses_what_it_cannot_encode(build, config, kind, field):
    with pytest.raises(FieldError) as caught:
        build(config, ColumnShape(kind, 5))
    assert caught.value.field == field


def test_sparse_parameters_are_listed_once():
    encoder = build_id(IdConfig(dim=3), ColumnShape("id", 5))
    both = torch.nn.ModuleList([encoder, torch.nn.ModuleDict({"shared": encoder}), torch.nn.Linear(2, 2)])
    assert [each.shape for each in sparse_parameters(both)] == [(5, 3)]
