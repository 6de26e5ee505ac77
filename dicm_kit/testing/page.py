"""The list of the checks as Markdown: what docs/plugins/contracts.md shows, generated from the code."""

from dicm_kit.registry import KINDS
from dicm_kit.testing.check import EVERY, MODULES, Check, checks_of

CONTRACTS = {
    "interest_aggregator": "AggregatorContract",
    "feature_encoder": "EncoderContract",
    "image_backbone": "BackboneContract",
    "base_net": "BaseNetContract",
    "data_source": "DataSourceContract",
}
"""Kind -> the class to subclass."""


def checks_text() -> str:
    """Returns a table of checks for every component, for every module, and for each kind."""
    checks = {each.id: each for kind in KINDS for each in checks_of(kind)}
    groups = [("Every component", EVERY), ("Encoders, backbones, aggregators and base nets", MODULES)]
    groups += [(f"`{CONTRACTS[kind]}`: {KINDS[kind].noun}s", (kind,)) for kind in CONTRACTS]
    tables = [_table(title, [each for each in checks.values() if each.kinds == kinds]) for title, kinds in groups]
    return "\n\n".join(tables)


def _table(title: str, checks: list[Check]) -> str:
    rows = "\n".join(f"| `{each.id}` | {each.what} |" for each in checks)
    return f"### {title}\n\n| check | what is promised |\n| --- | --- |\n{rows}"
