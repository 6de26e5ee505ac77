"""The extension points of dicm_kit: one hook per kind of component. A hook returns a list and has no side effects."""

import pluggy

from dicm_kit.interfaces import (
    BaseNet,
    Component,
    DataSource,
    FeatureEncoder,
    ImageBackbone,
    InterestAggregator,
)

HOOK_API = 1
"""Raised by one when a change in this file or in interfaces.py breaks existing plugins."""

hookspec = pluggy.HookspecMarker("dicm_kit")
hookimpl = pluggy.HookimplMarker("dicm_kit")


@hookspec
def dicm_feature_encoders() -> list[Component[FeatureEncoder]]:
    """Returns the feature encoders this plugin provides."""
    return []


@hookspec
def dicm_image_backbones() -> list[Component[ImageBackbone]]:
    """Returns the image backbones this plugin provides."""
    return []


@hookspec
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the interest aggregators this plugin provides."""
    return []


@hookspec
def dicm_base_nets() -> list[Component[BaseNet]]:
    """Returns the base nets this plugin provides."""
    return []


@hookspec
def dicm_data_sources() -> list[Component[DataSource]]:
    """Returns the data sources this plugin provides."""
    return []
