import numpy as np

from dicm_kit.training.slices import frequency_deciles


def test_deciles_of_training_impressions():
    # ten items with 1 impression, one with 10, one with 80; two never shown
    count = np.array([1] * 10 + [10, 80] + [0, 0])
    decile = frequency_deciles(count)
    assert decile[:10].tolist() == [1] * 10  # the rarest tenth, all of one count
    assert decile[10] == 2  # a tenth is rarer
    assert decile[11] == 3  # a fifth is rarer; it fills the rest by itself
    assert decile[12:].tolist() == [0, 0]
    assert frequency_deciles(np.zeros(3, dtype=np.int64)).tolist() == [0, 0, 0]
