"""The laws of the image server (docs/explanation/image_server.md) for any keys on 1 to 4 ranks."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import distributed

from dicm_kit.exchange.all_to_all import RankExchange
from dicm_kit.exchange.owner import owner, partition
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer

PARTITIONS, LENGTH, DIM, WIDE = 7, 3, 2, 3
EXAMPLES = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GROUPS = {}


def own_group():
    """A process group per pool of ranks: one for each example would be slow."""
    world = distributed.group.WORLD
    if world not in GROUPS:
        GROUPS.clear()
        GROUPS[world] = distributed.new_group()
    return GROUPS[world]


class Pictures:
    """Keys from 1 to 10 have a picture; key k has the vector sin(k * (1, 2, 3)). Notes what it is asked for."""

    def __init__(self):
        self.asked = []

    def lookup(self, keys_U):
        self.asked += keys_U.tolist()
        return (keys_U[:, None] % 1000 * torch.tensor([1.0, 2.0, 3.0])).sin().half(), (keys_U > 0) & (keys_U <= 10)


def run_step(exchange, target_N, history_GL, mask_GL, transport="vectors", dropout=0.0):
    torch.manual_seed(0)
    embedder = Embedder(WIDE, hidden=(5,), dim=DIM, dropout=dropout)
    server = ImageServer(Pictures(), embedder, exchange=exchange, transport=transport)
    torch.manual_seed(exchange.rank)  # for dropout, which no two ranks draw alike
    pictures = server(target_N, history_GL, mask_GL)
    loss = (1.7 * pictures.target_NI.square() + pictures.target_NI).sum() + pictures.history_GLI.square().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in embedder.named_parameters()}
    return pictures, gradients, server.store.asked, exchange.traffic


def step(rank, num_ranks, shares, transport="vectors", dropout=0.0):
    return run_step(RankExchange(own_group(), PARTITIONS), *shares[rank], transport, dropout)


@st.composite
def shares(draw, num_ranks):
    """For each rank targets and histories, perhaps none; few keys, so that ranks ask for the same ones."""
    keys = st.one_of(st.integers(0, 14), st.sampled_from([2**62 + 5, 2**63 - 1]))
    drawn = []
    for _ in range(num_ranks):
        target = draw(st.lists(keys, max_size=5))
        history = draw(st.lists(st.lists(keys, min_size=LENGTH, max_size=LENGTH), max_size=3))
        mask = draw(st.lists(st.booleans(), min_size=LENGTH * len(history), max_size=LENGTH * len(history)))
        drawn.append(
            (
                torch.tensor(target, dtype=torch.int64),
                torch.tensor(history, dtype=torch.int64).view(-1, LENGTH),
                torch.tensor(mask, dtype=torch.bool).view(-1, LENGTH),
            )
        )
    return drawn


def asked_of(share):
    """The distinct keys of a rank's batch."""
    target_N, history_GL, mask_GL = share
    return {*target_N.tolist(), *history_GL[mask_GL].tolist()} - {0}


def owner_of(key, num_ranks):
    return int(owner(partition(torch.tensor([key]), PARTITIONS), num_ranks))


def joined(drawn):
    return tuple(torch.cat([share[each] for share in drawn]) for each in range(3))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("transport", ["vectors", "backbone_vectors"])
def test_law_1_equals_one_process_on_the_joined_batch(ranks, num_ranks, transport):
    @EXAMPLES
    @given(shares(num_ranks))
    def holds(drawn):
        answers = ranks.run(num_ranks, step, drawn, transport)
        target_N, history_GL, mask_GL = joined(drawn)
        torch.manual_seed(0)
        embedder = Embedder(WIDE, hidden=(5,), dim=DIM)

        def plain(keys, mask):
            vectors, known = Pictures().lookup(keys.flatten())
            known = known & mask.flatten()
            return (embedder(vectors.float()) * known[:, None]).view(*keys.shape, DIM), known.view(keys.shape)

        target_NI, _ = plain(target_N, torch.ones_like(target_N, dtype=torch.bool))
        history_GLI, known_GL = plain(history_GL, mask_GL)
        got = [answer[0] for answer in answers]
        torch.testing.assert_close(torch.cat([each.target_NI for each in got]), target_NI, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(torch.cat([each.history_GLI for each in got]), history_GLI, rtol=1e-6, atol=1e-6)
        assert torch.equal(torch.cat([each.mask_GL for each in got]), known_GL)
        ((1.7 * target_NI.square() + target_NI).sum() + history_GLI.square().sum()).backward()
        for name, parameter in embedder.named_parameters():
            assert parameter.grad is not None
            summed = torch.stack([answer[1][name] for answer in answers]).sum(0)
            assert (summed - parameter.grad).norm() <= 1e-5 * parameter.grad.norm(), name

    holds()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_law_2_nothing_is_computed_twice(ranks, num_ranks):
    @EXAMPLES
    @given(shares(num_ranks))
    def holds(drawn):
        answers = ranks.run(num_ranks, step, drawn)
        computed = [key for answer in answers for key in answer[2]]
        assert sorted(computed) == sorted(set().union(*map(asked_of, drawn)))
        for rank, (_, _, asked, traffic) in enumerate(answers):
            assert all(owner_of(key, num_ranks) == rank for key in asked)
            assert (traffic.asked, traffic.served) == (len(asked_of(drawn[rank])), len(asked))

    holds()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("transport", ["vectors", "backbone_vectors"])
def test_law_4_bytes_equal_the_count(ranks, num_ranks, transport):
    @EXAMPLES
    @given(shares(num_ranks))
    def holds(drawn):
        answers = ranks.run(num_ranks, step, drawn, transport)
        width, travels_back = (4 * DIM, 4 * DIM) if transport == "vectors" else (2 * WIDE, 0)  # frozen: no gradient
        for rank, (_, _, _, traffic) in enumerate(answers):
            elsewhere = sum(owner_of(key, num_ranks) != rank for key in asked_of(drawn[rank]))
            others = [key for other in range(num_ranks) if other != rank for key in asked_of(drawn[other])]
            answered = sum(owner_of(key, num_ranks) == rank for key in others)
            assert traffic.sizes_bytes == 8 * (num_ranks - 1)
            assert traffic.keys_bytes == 8 * elsewhere
            assert traffic.vectors_bytes == width * answered
            assert traffic.gradients_bytes == travels_back * elsewhere

    holds()


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_law_5_a_dropout_draw_is_shared_by_all_uses(ranks, num_ranks):
    @EXAMPLES
    @given(shares(num_ranks))
    def holds(drawn):
        seen = {}
        answers = ranks.run(num_ranks, step, drawn, "vectors", 0.5)
        for (target_N, history_GL, _), answer in zip(drawn, answers, strict=True):
            pictures = answer[0]
            uses = [*zip(target_N.tolist(), pictures.target_NI, strict=True)]
            known_GL = pictures.mask_GL
            uses += zip(history_GL[known_GL].tolist(), pictures.history_GLI[known_GL], strict=True)
            for key, vector_I in uses:
                if 0 < key <= 10:
                    assert torch.equal(seen.setdefault(key, vector_I), vector_I)

    holds()


def frozen_statistics(rank, num_ranks, folder, keys):
    from dicm_kit.images.backbone import TimmBackbone
    from dicm_kit.images.store import PixelStore

    torch.manual_seed(0)
    backbone = TimmBackbone("test_resnet", "none", trainable="all", image_size=32)
    server = ImageServer(PixelStore(folder, backbone.transform), Embedder(backbone.out_dim, (), 2), backbone).train()
    server.exchange = RankExchange(own_group(), PARTITIONS)
    before = {name: value.clone() for name, value in server.named_buffers()}
    mine = torch.tensor(keys if rank == 0 else [], dtype=torch.int64)
    server(mine, None, torch.zeros(0, LENGTH, dtype=torch.bool)).target_NI.square().sum().backward()
    moved = [name for name, value in server.named_buffers() if not torch.equal(value, before[name])]
    norms = {name: value.grad for name, value in backbone.named_parameters() if "bn" in name}
    return moved, len(before), norms


def test_law_5_batch_norm_is_frozen(ranks, tmp_path):
    from pictures import write_shards

    keys = list(write_shards(tmp_path, range(5)))
    answers = {num_ranks: ranks.run(num_ranks, frozen_statistics, tmp_path, keys) for num_ranks in (1, 2)}
    for moved, num_buffers, _ in (*answers[1], *answers[2]):
        assert num_buffers > 0
        assert moved == []
    for name, gradient in answers[1][0][2].items():  # weights of the norms are trained, by all pictures together
        summed = answers[2][0][2][name] + answers[2][1][2][name]
        assert (summed - gradient).norm() <= 1e-5 * gradient.norm(), name
