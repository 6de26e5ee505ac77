"""The pictures of the next step are begun beside this one: the same bits, the same counts, really at the same time."""

import copy
import threading
import warnings
from dataclasses import asdict

import pytest
import torch
from distributed.lightning_ranks import ddp_trainer
from distributed.test_image_server_strategy import session_of
from distributed.test_server_laws import DIM, EXAMPLES, LENGTH, PARTITIONS, WIDE, Pictures, shares
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed

from dicm_kit.errors import ImageError
from dicm_kit.exchange.all_to_all import RankExchange
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.training.strategy import ImageServerStrategy

STEPS = 30
GROUPS = {}


def own_groups():
    """Two process groups per pool of ranks: two for each example would be slow."""
    world = distributed.group.WORLD
    if world not in GROUPS:
        GROUPS.clear()
        GROUPS[world] = distributed.new_group(), distributed.new_group()
    return GROUPS[world]


def some_steps(rank, num_ranks, drawn, transport, looks_ahead):
    """Trains on one share after another; the keys of a step are given out before the step before it."""
    group, ahead = own_groups()
    torch.manual_seed(0)
    embedder = Embedder(WIDE, hidden=(5,), dim=DIM)
    server = ImageServer(Pictures(), embedder, exchange=RankExchange(group, PARTITIONS), transport=transport)
    server._asking = RankExchange(ahead, PARTITIONS)
    mine = [each[rank] for each in drawn]
    optimizer = torch.optim.SGD(embedder.parameters(), lr=0.1)
    begun, seen = server.look_ahead(*mine[0]) if looks_ahead else None, []
    for step, share in enumerate(mine):
        following = server.look_ahead(*mine[step + 1]) if looks_ahead and step + 1 < len(mine) else None
        pictures = server(*share, begun)
        loss = (pictures.target_NI.square() + pictures.target_NI).sum() + pictures.history_GLI.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        begun = following
        seen += [pictures.target_NI.detach(), pictures.history_GLI.detach(), pictures.mask_GL]
    server.end_look_ahead()
    seen += [each.detach() for each in embedder.parameters()]
    counted = {name: value for name, value in asdict(server.exchange.traffic).items() if not name.endswith("_seconds")}
    return seen, counted, server.counters, server.exchange.traffic.wait_seconds


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("transport", ["vectors", "backbone_vectors"])
def test_steps_are_the_same_to_the_bit_and_in_every_count(ranks, num_ranks, transport):
    @settings(EXAMPLES, max_examples=30)
    @given(st.lists(shares(num_ranks), min_size=1, max_size=4))
    def holds(drawn):
        one_by_one = ranks.run(num_ranks, some_steps, drawn, transport, False)
        ahead = ranks.run(num_ranks, some_steps, drawn, transport, True)
        for one, other in zip(one_by_one, ahead, strict=True):
            assert all(torch.equal(left, right) for left, right in zip(one[0], other[0], strict=True))
            assert one[1:3] == other[1:3]
            assert one[3] == 0 < other[3]

    holds()


def train(rank, num_ranks, folder, *overrides):
    before = threading.enumerate()
    given = [*overrides, *(["trainer.strategy=image_server"] if num_ranks > 1 else [])]
    session = session_of(folder, rank, num_ranks, *given)
    trainer = ddp_trainer(
        rank,
        num_ranks,
        ImageServerStrategy,
        max_steps=STEPS,
        max_epochs=-1,
        val_check_interval=7,  # validation begins when the next training step has been looked ahead for
        check_val_every_n_epoch=None,
        enable_checkpointing=False,
    )
    with warnings.catch_warnings():  # `dicm run` leaves it out, too: batch norms stay in eval mode
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        trainer.fit(session.module, session.data)
    counted = copy.copy(session.module.server.exchange.traffic)
    trainer.test(session.module, session.data, verbose=False)
    parameters = {name: value.detach() for name, value in session.module.named_parameters()}
    tables = sharded_tables(session.module)
    assert all(each.begun is None for each in tables.values())
    sent = {name: (each.exchange.traffic.keys_bytes, each.exchange.traffic.fetches) for name, each in tables.items()}
    left = [each.name for each in threading.enumerate() if "next step" in each.name and each not in before]
    numbers = {name: value for name, value in asdict(counted).items() if not name.endswith("_seconds")} | sent
    return parameters, session.module.results, numbers, counted.wait_seconds, left


FROZEN, WIDE_VECTORS = [], ["images.transport=backbone_vectors"]
TABLES = [f"features.{each}.placement=sharded" for each in ("user.user_id", "target.item_id", "context.position")]
TRAINED = ["images.backbone.trainable=all", "batch_size=64"]


@pytest.mark.parametrize(
    ("num_ranks", "overrides"),
    [(1, FROZEN), (1, TRAINED), (2, FROZEN), (2, TRAINED), (4, FROZEN), (4, WIDE_VECTORS), (2, TABLES)],
)
def test_a_training_is_the_same_to_the_bit(ranks, shop, num_ranks, overrides):
    def trained(*switch):
        given = [shop, *overrides, *switch]
        return [train(0, 1, *given)] if num_ranks == 1 else ranks.run(num_ranks, train, *given)

    one_by_one, ahead = trained("trainer.look_ahead=false"), trained()
    for one, other in zip(one_by_one, ahead, strict=True):
        assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())
        assert one[1]["test"] == pytest.approx(other[1]["test"], rel=0, abs=0, nan_ok=True)
        assert one[2] == other[2]
        assert one[3] == 0 < other[3]
        assert other[4] == []


# --- it is at the same time ---


class Meeting(Pictures):
    """Its second lookup waits until the first step is being computed: one after the other it would wait in vain."""

    def __init__(self):
        super().__init__()
        self.computing, self.met = threading.Event(), []

    def lookup(self, keys_U):
        if self.asked:
            self.met.append(self.computing.wait(20))
        return super().lookup(keys_U)


def meet(rank, num_ranks):
    group, ahead = own_groups()
    server = ImageServer(Meeting(), Embedder(WIDE, (), DIM), exchange=RankExchange(group, PARTITIONS))
    server._asking = RankExchange(ahead, PARTITIONS)
    nothing = torch.zeros(0, LENGTH, dtype=torch.bool)
    keys = torch.arange(1, 11)
    begun = server.look_ahead(keys, None, nothing)
    begun.wait()
    following = server.look_ahead(keys, None, nothing)
    vectors = server(keys, None, nothing, begun).target_NI
    was_done = following.wait(0)
    server.store.computing.set()
    vectors.sum().backward()
    server(keys, None, nothing, following)
    server.end_look_ahead()
    return was_done, server.store.met


def test_the_next_lookup_goes_on_while_a_step_is_computed(ranks):
    assert ranks.run(2, meet) == [(False, [True])] * 2


# --- errors come up in the step whose pictures they are ---


def unknown_picture(rank, num_ranks):
    group, ahead = own_groups()
    server = ImageServer(Pictures(), Embedder(WIDE, (), DIM), exchange=RankExchange(group, PARTITIONS), missing="error")
    server._asking = RankExchange(ahead, PARTITIONS)
    nothing = torch.zeros(0, LENGTH, dtype=torch.bool)
    good, bad = torch.tensor([1, 2]), torch.tensor([3, 11])
    begun = server.look_ahead(good, None, nothing)
    following = server.look_ahead(bad, None, nothing)
    server(good, None, nothing, begun)
    try:
        server(bad, None, nothing, following)
    except ImageError as error:
        return str(error)
    finally:
        server.end_look_ahead()


def test_a_missing_picture_is_an_error_of_its_own_step(ranks):
    (said,) = ranks.run(1, unknown_picture)
    assert "the store has no picture 11" in said
