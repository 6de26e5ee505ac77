"""All checks, in the order in which they run: importing this registers them."""

from importlib import import_module

for _file in (
    "every",
    "config_keys",
    "aggregators",
    "encoders",
    "backbones",
    "base_nets",
    "data_sources",
    "source_streams",
    "prepared",
    "modules",
    "quiet_import",
    "on_ranks",
):
    import_module(f"dicm_kit.testing.{_file}")
