"""The joint mean of sparse gradients is the mean of dense ones: any rows, repeated or none, on 1 to 4 ranks."""

import pytest
import torch
from distributed.test_server_laws import own_group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicm_kit.training.sparse_gradients import average_sparse

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
