"""All checks, in the order in which they run: importing this registers them."""

from dicm_kit.testing import (  # noqa: F401 - the import registers them
    aggregators,
    backbones,
    base_nets,
    config_keys,
    data_sources,
    encoders,
    every,
    modules,
    on_ranks,
)
