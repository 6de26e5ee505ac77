"""The joint mean of sparse gradients is the mean of dense ones: any rows, repeated or none, on 1 to 4 ranks."""

import pytest
import torch
from distributed.test_server_laws import own_group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan
from dicm_kit.training.sparse_gradients import average_sparse, share_overflow

SIZES = [(9, 3), (5, 1), (7, 2)]  # of three tables
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def gradient(rows, size, seed):
    if rows is None:
        return None
    values = torch.randn(len(rows), size[1], generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, size, check_invariants=True)


def averaged(rank, num_ranks, rows_of):
    tables = [torch.nn.Parameter(torch.zeros(size)) for size in SIZES]
    for t, table in enumerate(tables):
        table.grad = gradient(rows_of[rank][t], SIZES[t], 10 * rank + t)
    average_sparse(tables, own_group())
    return [table.grad for table in tables]


@st.composite
def rows(draw, num_ranks):
    return [
        [draw(st.none() | st.lists(st.integers(0, size[0] - 1), max_size=6)) for size in SIZES]
        for _ in range(num_ranks)
    ]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_it_is_the_mean(ranks, num_ranks):
    @EXAMPLES
    @given(rows(num_ranks))
    def holds(rows_of):
        answers = ranks.run(num_ranks, averaged, rows_of)
        for t, size in enumerate(SIZES):
            dense = torch.zeros(size)
            named = set()
            for rank in range(num_ranks):
                if rows_of[rank][t] is not None:
                    dense += gradient(rows_of[rank][t], size, 10 * rank + t).to_dense() / num_ranks
                    named |= set(rows_of[rank][t])
            for answer in answers:
                assert answer[t].is_coalesced()
                assert answer[t].indices()[0].tolist() == sorted(named)  # touched rows, and no other
                torch.testing.assert_close(answer[t].to_dense(), dense)
                assert torch.equal(answer[t].values(), answers[0][t].values())  # replicas stay equal to the bit

    holds()


def stepped(rank, num_ranks, bad_rank):
    """Two steps with a gradient scaler on two ranks that each have a row of their own; the first may overflow."""
    rows, dense = torch.nn.Parameter(torch.ones(1, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = CtrOptimizer([dense], [rows], OptimizerPlan())
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    group, after = own_group(), []
    for step in range(2):
        scaler.scale(torch.zeros(()))  # makes the scale
        dense.grad = torch.ones(2, 2)
        value = torch.inf if step == 0 and rank == bad_rank else 4.0
        rows.grad = torch.sparse_coo_tensor([[0]], [[value, 1.0]], (1, 2), check_invariants=True)
        share_overflow([rows], dense, group)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        after.append((scaler.get_scale(), rows.detach().clone(), dense.detach().clone()))
    return after


@pytest.mark.parametrize("bad_rank", [None, 0, 1])
def test_an_overflow_in_one_ranks_rows_skips_the_step_of_all(ranks, bad_rank):
    for first, second in ranks.run(2, stepped, bad_rank):
        skipped = bad_rank is not None
        scale, rows, dense = first
        assert scale == (4.0 if skipped else 8.0)
        assert torch.equal(rows, torch.ones(1, 2)) == torch.equal(dense, torch.ones(2, 2)) == skipped
        assert second[0] == first[0]
        assert (second[1] < first[1]).all()
        assert (second[2] < first[2]).all()
