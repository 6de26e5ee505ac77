"""All checks: importing this registers them."""

from importlib import import_module

FILES = (
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
)
"""The files with checks, in the order in which these run."""

for _file in FILES:
    import_module(f"dicm_kit.testing.{_file}")
