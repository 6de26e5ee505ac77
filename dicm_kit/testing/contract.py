"""The classes that a plugin's author subclasses: every check of a kind, with every config, as a test of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from dicm_kit.interfaces import Component
from dicm_kit.testing.check import Outcome
from dicm_kit.testing.plan import Item, plan, told
from dicm_kit.testing.time_limit import TimedOut, time_limit


class Contract:
    """What all five have in common. Subclass one of the five, and give it `component`."""

    kind: ClassVar[str]
    component: ClassVar[Component[Any]]
    configs: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """As a recipe would write them; empty: the component's `examples`, or one of defaults only."""
    no_effect: ClassVar[Mapping[str, str]] = {}
    """Keys that need not change what the component does, each with the reason."""
    exempt: ClassVar[Mapping[str, str]] = {}
    """Checks by id that do not apply, each with the reason, which is shown."""
    shapes: ClassVar[Sequence[Any]] = ()
    """Sizes to build with (`HistoryShapes` and so on); empty: those of the kit that the component takes."""

    timeout: ClassVar[float] = 60.0
    """Seconds for one check; one that takes longer fails with its stack."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Makes the items; pytest calls it."""
        items = plan(
            self.kind,
            self.component,
            configs=self.configs,
            no_effect=self.no_effect,
            exempt=self.exempt,
            shapes=tuple(self.shapes),
        )
        metafunc.parametrize("item", items, ids=[each.id for each in items])

    def test_contract(self, item: Item) -> None:
        """Runs one check with one config."""
        try:
            with time_limit(self.timeout, may_end=False):
                outcome: Outcome = item.judge()
        except TimedOut as late:
            outcome = Outcome("failed", f"no end after {late.seconds:g} s; it was here:\n{late.stack}")
        if outcome.state == "skipped":
            pytest.skip(outcome.text)
        if outcome.state == "failed":
            pytest.fail(told([item], outcome.text), pytrace=False)


class AggregatorContract(Contract):
    """The checks of an interest aggregator, for `component = dicm_interest_aggregators()[0]`."""

    kind = "interest_aggregator"


class EncoderContract(Contract):
    """The checks of a feature encoder."""

    kind = "feature_encoder"


class BackboneContract(Contract):
    """The checks of an image backbone."""

    kind = "image_backbone"


class BaseNetContract(Contract):
    """The checks of a base net."""

    kind = "base_net"


class DataSourceContract(Contract):
    """The checks of a data source; its `configs` name folders with a tiny log."""

    kind = "data_source"
