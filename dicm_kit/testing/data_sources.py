"""Checks of data sources: what `prepare` asks of their streams."""

from dicm_kit.testing.check import Failed, check
from dicm_kit.testing.settings import SourceSetting

KIND = "data_source"


@check(KIND)
def streams_repeat(setting: SourceSetting) -> None:
    """Each stream yields the same each time."""
    source = setting.source()
    for piece in source.pieces:
        if list(source.impressions(piece)) != list(source.impressions(piece)):
            raise Failed(
                f"`impressions({piece!r})` yielded something else the second time; make a new generator each time"
            )
    for name in ("items", "users"):
        stream = getattr(source, name)
        if list(stream()) != list(stream()):
            raise Failed(f"`{name}()` yielded something else the second time; make a new generator each time")


@check(KIND)
def fingerprints_are_stable(setting: SourceSetting) -> None:
    """`fingerprint`, `pieces` and `snapshot` are the same for the same config and files."""
    one, other = setting.source(), setting.source()
    for name in ("fingerprint", "pieces", "snapshot", "columns"):
        if getattr(one, name) != getattr(other, name):
            raise Failed(
                f"`{name}` of two sources with the same config differ; the folder would be prepared anew each time"
            )
