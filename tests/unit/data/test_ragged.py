import numpy as np
import pytest

from dicm_kit.data.ragged import Ragged, offsets_of


@pytest.fixture
def rows() -> Ragged:
    return Ragged(np.array([1, 2, 3, 4, 5, 6]), np.array([0, 2, 2, 5, 6]))


def listed(ragged: Ragged) -> list[list[int]]:
    return [part.tolist() for part in np.split(ragged.values, ragged.offsets[1:-1])]


def test_offsets_start_at_zero_and_end_at_the_sum():
    assert offsets_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]


def test_take_moves_and_repeats_rows(rows):
    assert listed(rows.take(np.array([2, 0, 1, 2]))) == [[3, 4, 5], [1, 2], [], [3, 4, 5]]


def test_slice_starts_at_zero(rows):
    assert listed(rows[2:4]) == [[3, 4, 5], [6]]
    assert len(rows[1:1]) == 0


def test_joined_parts(rows):
    assert listed(Ragged.joined([rows[2:3], rows[0:2]])) == [[3, 4, 5], [1, 2], []]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_padded_keeps_the_first_values_of_each_row(rows, width):
    expected = [([*row, *[-1] * width])[:width] for row in [[1, 2], [], [3, 4, 5], [6]]]
    assert rows.padded(width, -1).tolist() == expected
    assert rows[2:4].padded(width, -1).tolist() == expected[2:]


def test_padded_of_rows_that_are_all_full():
    assert Ragged(np.arange(6), np.array([0, 3, 6])).padded(3, -1).tolist() == [[0, 1, 2], [3, 4, 5]]
