"""SQL: which rows of the log stay, and in which split the options put them."""

from dicm_kit.data.options import PrepareOptions

_DAY = "floor(time / 86400.0)"


def log_query(options: PrepareOptions, columns: list[str], has_users: bool) -> tuple[str, list[str]]:
    """Returns the query of the rows that stay, with `split_index`, and the filters that they went through.

    `split_index`: the place in SPLITS; NULL for a split by time, where days decide, and for a word that is no split.
    """
    filters, joins, qualify = [], "", ""
    if options.unlisted == "drop":
        filters.append("`unlisted: drop`")
        joins = "SEMI JOIN items ON items.item = i.item"
        joins += ' SEMI JOIN users ON users."user" = i."user"' if has_users else ""
    order = '"order", ' if "order" in columns else ""
    if options.drop_repeats:
        filters.append("`drop_repeats`")
        qualify = f"""QUALIFY row_number() OVER (
            PARTITION BY i."user", i.item, {_DAY} ORDER BY label DESC, time, {order}row_number) = 1"""
    kept = f"SELECT i.* FROM impressions i {joins} {qualify}"
    split = options.split
    if split.by == "time":
        return f"SELECT *, NULL::TINYINT AS split_index FROM ({kept})", filters
    if split.by == "column":
        case = "CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 WHEN 'test' THEN 2 END"
        return f"SELECT *, {case}::TINYINT AS split_index FROM ({kept})", filters
    numbered = f"""SELECT *, dense_rank() OVER (PARTITION BY "user" ORDER BY {_group_key(options, order)}) AS place
        FROM ({_with_sessions(options, kept)})"""
    counted = f'SELECT *, max(place) OVER (PARTITION BY "user") AS groups FROM ({numbered})'
    test = _last(split.test, "groups")
    kept_back = f"SELECT *, {test} AS test_groups FROM ({counted})"
    validation = _last(split.validation, "groups - test_groups")
    return (
        f"""SELECT * EXCLUDE (place, groups, test_groups{", session" if options.group.by == "session" else ""}),
            CASE WHEN place > groups - test_groups THEN 2
            WHEN place > groups - test_groups - {validation} THEN 1 ELSE 0 END::TINYINT AS split_index
            FROM ({kept_back})""",
        filters,
    )


def _last(wanted: float, groups: str) -> str:
    """SQL: how many of a user's last groups are kept back; at least one stays for training."""
    if wanted < 1:
        # of all the user's groups; the small number is against 0.1 * 30 being 2.9999
        return f"floor(groups * {wanted} + 1e-9)::BIGINT"
    return f"CASE WHEN {groups} > {int(wanted)} THEN {int(wanted)} ELSE 0 END"


def _group_key(options: PrepareOptions, order: str) -> str:
    if options.group.by == "session":
        return "session"
    return _DAY if options.group.by == "day" else f"time{', ' + order.rstrip(', ') if order else ''}"


def _with_sessions(options: PrepareOptions, query: str) -> str:
    if options.group.by != "session":
        return query
    before = 'lag(time) OVER (PARTITION BY "user" ORDER BY time)'
    day_before = f"floor({before} / 86400.0)"
    starts = f"""SELECT *, coalesce(time - {before} > {options.group.session_minutes * 60}
        OR {_DAY} <> {day_before}, true)::BIGINT AS starts FROM ({query})"""
    return f"""SELECT * EXCLUDE (starts), sum(starts) OVER (
        PARTITION BY "user" ORDER BY time RANGE UNBOUNDED PRECEDING) AS session FROM ({starts})"""
