"""Our data sources keep what they promise, on a tiny shop and a tiny log."""

from dicm_kit.builtin import dicm_data_sources
from dicm_kit.testing import DataSourceContract
from dicm_kit.testing.tiny_log import tiny_log_configs

OURS = {each.name: each for each in dicm_data_sources()}


class TestSynthetic(DataSourceContract):
    component = OURS["synthetic"]


class TestLog(DataSourceContract):
    component = OURS["log"]
    configs = tiny_log_configs()
