"""How many ids have no vector because training has not had them for too long."""

import numpy as np

from dicm_kit.data.audit.made import option
from dicm_kit.data.audit.result import Forgotten
from dicm_kit.data.dataset import Dataset


def count_forgotten(dataset: Dataset, usable_vocabs: set[str]) -> Forgotten | None:
    """Returns the forgotten values of each vocabulary; None where dataset.yaml does not say that any are.

    They have no index although training has them at least `min_count` times, as far as dataset.yaml says that.
    """
    import pyarrow.parquet as pq

    days = option(dataset.made, "forget_after_days")
    if not isinstance(days, int):
        return None
    least = option(dataset.made, "min_count")
    least = least if isinstance(least, int) else 1
    found = {}
    for vocab in sorted(usable_vocabs):
        table = pq.read_table(dataset.vocab_file(vocab), columns=["index", "count"], partitioning=None)
        often = table["count"].to_numpy() >= max(1, least)
        gone = often & (table["index"].to_numpy() == 0)
        found[vocab] = (int(np.count_nonzero(gone)), int(np.count_nonzero(often)))
    return Forgotten(days, found)
