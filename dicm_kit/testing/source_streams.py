"""Checks of what a data source yields, row by row, and of how its streams behave."""

import gc
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from dicm_kit.data.grouping import LATEST
from dicm_kit.pixels import check_picture
from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.data_sources import KIND
from dicm_kit.testing.settings import SourceSetting, rows


@check(KIND)
def streams_repeat(setting: SourceSetting) -> None:
    """Each stream yields the same each time it is asked for."""
    source = setting.source()
    for name, stream in _streams(source).items():
        if rows(stream()) != rows(stream()):
            raise Failed(f"`{name}` yielded something else the second time; make a new generator each time")
    if _pictures(source) != _pictures(source):
        raise Failed("`pictures(())` yielded something else the second time; make a new generator each time")


@check(KIND)
def same_order_for_same_seed(setting: SourceSetting) -> None:
    """Two sources with the same config yield the same rows in the same order."""
    one, other = setting.source(), setting.source()
    for (name, ours), theirs in zip(_streams(one).items(), _streams(other).values(), strict=True):
        first, second = rows(ours()), rows(theirs())
        if first != second:
            same = Counter(map(repr, first)) == Counter(map(repr, second))
            raise Failed(
                f"two sources with the same config yield `{name}` {'in another order' if same else 'with other rows'};"
                " sort file names, walk no sets, and draw with a seed of the config"
            )


@check(KIND)
def every_impression_once(setting: SourceSetting) -> None:
    """No batch of impressions comes twice, in a piece or in two of them; and there are some."""
    source = setting.source()
    seen: dict[str, str] = {}
    count = 0
    for piece in source.pieces:
        for batch in source.impressions(piece):
            count += len(batch)
            key = repr(batch.to_pydict())
            if len(batch) > 1 and key in seen:
                where = f"twice in `{piece}`" if seen[key] == piece else f"in `{seen[key]}` and in `{piece}`"
                raise Failed(f"the same {len(batch)} impressions come {where}; yield the rows of that piece, each once")
            seen[key] = piece
    if count == 0:
        raise Failed("it yields no impression; look at the files it reads")


@check(KIND)
def items_are_unique(setting: SourceSetting) -> None:
    """Every item comes once, and none is null."""
    _unique(rows(setting.source().items()), "item")


@check(KIND)
def users_are_unique(setting: SourceSetting) -> None:
    """Every user comes once, and none is null."""
    _unique(rows(setting.source().users()), "user")


@check(KIND)
def impressions_name_known_items(setting: SourceSetting) -> None:
    """Every impression's item is among the items."""
    source = setting.source()
    known = {row["item"] for row in rows(source.items())}
    _known(source, "item", known)


@check(KIND)
def impressions_name_known_users(setting: SourceSetting) -> None:
    """Where users have columns, every impression's user is among the users."""
    source = setting.source()
    if not source.columns.user:
        raise DoesNotApply("users have no columns")
    _known(source, "user", {row["user"] for row in rows(source.users())})


@check(KIND)
def times_are_whole_seconds(setting: SourceSetting) -> None:
    """`time` is never null, and is whole seconds: not milliseconds, not a date."""
    times: list[Any] = [row.get("time") for row in _impressions(setting.source())]
    wrong = [each for each in times if not isinstance(each, int) or isinstance(each, bool)]
    if wrong:
        raise Failed(f"`time` is {wrong[0]!r}; convert it to whole seconds since 1970")
    if times and max(times) >= LATEST:
        raise Failed(f"`time` is as large as {max(times)}: milliseconds or finer? Convert it to seconds")


@check(KIND)
def labels_are_0_or_1(setting: SourceSetting) -> None:
    """`label` is 0 or 1 in every impression; `weight`, where there is one, at least 0."""
    for row in _impressions(setting.source()):
        if row.get("label") not in (0, 1):
            raise Failed(f"`label` is {row.get('label')!r}; make it 1 for a click and 0 for none")
        if "weight" in row and not (row["weight"] is not None and 0 <= row["weight"] < float("inf")):
            raise Failed(f"`weight` is {row['weight']!r}; make it a number of at least 0")
        if "split" in row and row["split"] not in ("train", "val", "test"):
            raise Failed(f"`split` is {row['split']!r}; make it train, val or test")


@check(KIND)
def no_history_from_the_future(setting: SourceSetting) -> None:
    """Where it brings histories along: items and times are of one length, newest first, and before the impression."""
    found = [row for row in _impressions(setting.source()) if row.get("history") is not None]
    if not found:
        raise DoesNotApply("it brings no histories along: they are made of earlier clicks")
    for row in found:
        times = row.get("history_time")
        if times is None:
            continue
        if len(times) != len(row["history"]):
            raise Failed(f"a history has {len(row['history'])} items and {len(times)} times; give each item its time")
        late = [each for each in times if each >= row["time"]]
        if late:
            raise Failed(
                f"a history holds a click of {late[0]}, the impression is of {row['time']}: keep what was before it"
            )
        if times != sorted(times, reverse=True):
            raise Failed("a history is not sorted; put the newest click first")


@check(KIND)
def items_name_known_pictures(setting: SourceSetting) -> None:
    """Most pictures that items name are yielded, under the same name."""
    source = setting.source()
    named = {str(row["picture"]) for row in rows(source.items()) if row.get("picture") is not None}
    if not named:
        raise DoesNotApply("no item names a picture")
    yielded = {str(name) for name, _ in source.pictures(())}
    if not named & yielded:
        raise Failed(
            f"items name pictures such as {min(named)!r}, `pictures` yields "
            f"{'such as ' + repr(min(yielded)) if yielded else 'none'}; use one name in both"
        )


@check(KIND)
def pictures_come_once(setting: SourceSetting) -> None:
    """`pictures` yields (name, bytes) or (name, reason), each name once."""
    found = _some_pictures(setting)
    for each in found:
        if not (
            isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], bytes | str)
        ):
            raise Failed(f"`pictures` yielded {each!r:.80}; yield (name, bytes), or (name, why it is refused)")
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        raise Failed(f"`pictures` yielded {twice[0]!r} twice; yield each name once, though several items show it")


@check(KIND)
def pictures_decode(setting: SourceSetting) -> None:
    """The bytes are JPEG, PNG or WebP files that decode; of broken ones, text says why, and not all are broken."""
    found = _some_pictures(setting)
    reasons = {name: check_picture(data) if isinstance(data, bytes) else data for name, data in found[:50]}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if len(refused) == len(reasons):
        name, reason = next(iter(refused.items()))
        raise Failed(f"no picture can be used; {name!r}: {reason}. Yield the bytes of the file")


@check(KIND)
def pictures_honour_have(setting: SourceSetting) -> None:
    """`pictures(have)` leaves out the names in `have`: they are not read again when days are added."""
    names = [name for name, _ in _some_pictures(setting)]
    have = set(names[::2])
    got = [name for name, _ in setting.source().pictures(have)]
    again = [name for name in got if name in have]
    if again:
        raise Failed(
            f"`pictures` yielded {again[0]!r}, which is in `have`; `if name in have: continue` before reading it"
        )
    if got != [name for name in names if name not in have]:
        raise Failed("`pictures(have)` left out more than what is in `have`, or changed the order")


@check(KIND)
def stops_mid_way(setting: SourceSetting) -> None:
    """A stream that is closed after its first batch leaves no open file and no thread behind."""
    source = setting.source()
    _one_of_each(source)  # whatever is opened once and kept is opened now: pools of threads, caches
    gc.collect()
    threads, files = set(threading.enumerate()), _open_files()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        _one_of_each(source)
        left = _open_files() - files
        gc.collect()
    new = [each.name for each in threading.enumerate() if each not in threads and each.is_alive()]
    unclosed = [str(each.message) for each in told if issubclass(each.category, ResourceWarning)]
    if left or unclosed:
        shown = ", ".join(Path(each).name for each in sorted(left)[:3]) or unclosed[0]
        raise Failed(
            f"a stream that was closed mid-way left a file open ({shown}); open files in a `with` inside the generator"
        )
    if new:
        raise Failed(f"a stream that was closed mid-way left the thread {new[0]} running; end it in a `finally`")


def _one_of_each(source: Any) -> None:
    streams = [lambda piece=piece: source.impressions(piece) for piece in source.pieces]
    for make in (*streams, source.items, source.users, lambda: source.pictures(())):
        stream = iter(make())
        next(stream, None)
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def _open_files() -> Counter[str]:
    """Returns the regular files that this process has open, how often each; none where the system does not say."""
    folder = Path("/proc/self/fd")
    found: Counter[str] = Counter()
    for each in folder.iterdir() if folder.is_dir() else ():
        try:
            target = each.readlink()
        except OSError:
            continue
        if target.is_file():
            found[str(target)] += 1
    return found


def _streams(source: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"impressions({piece!r})": lambda piece=piece: source.impressions(piece) for piece in source.pieces
    }
    return {**found, "items()": source.items, "users()": source.users}


def _impressions(source: Any) -> list[dict[str, Any]]:
    return [row for piece in source.pieces for row in rows(source.impressions(piece))]


def _pictures(source: Any) -> list[tuple[str, Any]]:
    return list(source.pictures(()))


def _some_pictures(setting: SourceSetting) -> list[tuple[str, Any]]:
    found = _pictures(setting.source())
    if not found:
        raise DoesNotApply("it has no pictures")
    return found


def _unique(found: list[dict[str, Any]], name: str) -> None:
    counts = Counter(row[name] for row in found)
    if None in counts:
        raise Failed(f"`{name}` is null; every row of `{name}s` has one")
    twice = [value for value, count in counts.items() if count > 1]
    if twice:
        raise Failed(f"the {name} {twice[0]!r} comes {counts[twice[0]]} times in `{name}s`; yield each once")


def _known(source: Any, name: str, known: set[Any]) -> None:
    found = [row[name] for row in _impressions(source)]
    if None in found:
        raise Failed(f"`{name}` of an impression is null; leave such rows out")
    unknown = sorted({repr(each) for each in found if each not in known})
    if unknown:
        raise Failed(
            f"{len(unknown)} {name}s of impressions are not in `{name}s`, such as {unknown[0]}; yield them there, or"
            f" leave these impressions out (is `{name}` a number here and text there?)"
        )
