"""Laws of keys, partitions, dedup and the image server with one rank, for any keys."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write_shards
from torch import Tensor

from dicm_kit.errors import ImageError
from dicm_kit.exchange.dedup import distinct
from dicm_kit.exchange.owner import mix64, owner, partition
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.shards import partition_of, read_shard

keys = st.one_of(st.integers(0, 8), st.integers(0, 2**63 - 1))
some_keys = st.lists(keys, max_size=40)


@given(some_keys)
def test_distinct_keys_lead_back_to_every_reference(values: list[int]) -> None:
    keys_K = torch.tensor(values, dtype=torch.int64)
    keys_U, inverse_K = distinct(keys_K)
    assert keys_U.tolist() == sorted(set(values))
    assert torch.equal(keys_U[inverse_K], keys_K)


@given(some_keys, st.integers(1, 2**32), st.integers(1, 64))
def test_every_key_has_one_partition_and_one_owner(values: list[int], num_partitions: int, num_ranks: int) -> None:
    keys_K = np.array(values, dtype=np.int64)
    parts_K = partition(keys_K, num_partitions)
    assert parts_K.tolist() == [partition_of(key, num_partitions) for key in values]
    assert partition(torch.from_numpy(keys_K), num_partitions).tolist() == parts_K.tolist()
    assert all(0 <= rank < num_ranks for rank in owner(parts_K, num_ranks))


@given(st.sets(keys, max_size=40))
def test_mix64_keeps_different_keys_different(values: set[int]) -> None:
    assert len(set(mix64(torch.tensor(list(values), dtype=torch.int64)).tolist())) == len(values)


@pytest.fixture(scope="module")
def whole_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shard")
    write_shards(folder, range(4), partitions=1)
    return folder / "part-0000-00000.tar"


@given(st.data())
def test_no_cut_of_a_shard_goes_unnoticed(whole_shard: Path, data: st.DataObject) -> None:
    entries, content = list(read_shard(whole_shard)), whole_shard.read_bytes()
    end = content.rindex(entries[-1][1]) + len(entries[-1][1])
    end_mark = -(-end // 512) * 512 + 512
    cut = whole_shard.with_name("cut.tar")
    cut.write_bytes(content[: data.draw(st.integers(0, end_mark - 1))])
    found = []
    with pytest.raises(ImageError, match="cut"):
        found.extend(read_shard(cut))
    assert found == entries[: len(found)]
    cut.write_bytes(content[:end_mark])
    assert list(read_shard(cut)) == entries


class TenPictures:
    """A store of the keys 1 to 10; key k has the vector sin(k * (1, 2, 3))."""

    def lookup(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        return (keys_U[:, None] % 1000 * torch.tensor([1.0, 2.0, 3.0])).sin().half(), (keys_U > 0) & (keys_U <= 10)


@st.composite
def references(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    num_impressions, num_groups, length = draw(st.integers(0, 6)), draw(st.integers(0, 4)), draw(st.integers(1, 4))
    known = st.integers(0, 14)

    def drawn(values: st.SearchStrategy, *shape: int) -> Tensor:
        count = int(np.prod(shape))
        return torch.tensor(draw(st.lists(values, min_size=count, max_size=count))).reshape(shape)

    target_N = drawn(known, num_impressions).long()
    return target_N, drawn(known, num_groups, length).long(), drawn(st.booleans(), num_groups, length).bool()


@settings(max_examples=60, deadline=None)
@given(references())
def test_the_server_equals_a_plain_lookup_and_so_do_its_gradients(asked: tuple[Tensor, Tensor, Tensor]) -> None:
    target_N, history_GL, mask_GL = asked
    torch.manual_seed(0)
    store, embedder = TenPictures(), Embedder(3, hidden=(5,), dim=2).double()
    pictures = ImageServer(store, embedder)(target_N, history_GL, mask_GL)
    assert pictures.target_NI is not None
    assert pictures.history_GLI is not None
    weights = torch.linspace(-1, 2, 2, dtype=torch.float64)
    ((pictures.target_NI * weights).square().sum() + (pictures.history_GLI * weights).square().sum()).backward()
    found = [parameter.grad for parameter in embedder.parameters()]

    embedder.zero_grad()

    def plain(keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        vectors, known = store.lookup(keys.flatten())
        known = known & mask.flatten()
        out = embedder(vectors.double()) * known[:, None]
        return out.view(*keys.shape, 2), known.view(keys.shape)

    target_NI, _ = plain(target_N, torch.ones_like(target_N, dtype=torch.bool))
    history_GLI, known_GL = plain(history_GL, mask_GL)
    ((target_NI * weights).square().sum() + (history_GLI * weights).square().sum()).backward()
    torch.testing.assert_close(pictures.target_NI, target_NI, rtol=0, atol=1e-12)
    torch.testing.assert_close(pictures.history_GLI, history_GLI, rtol=0, atol=1e-12)
    assert torch.equal(pictures.mask_GL, known_GL)
    for mine, parameter in zip(found, embedder.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=1e-12)
