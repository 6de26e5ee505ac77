"""What ranks must agree on before they start: all go on, or all stop with the same error."""

from typing import Any

from torch import distributed

from dicm_kit.errors import DicmError, some


def all_same(what: str, value: str, group: distributed.ProcessGroup | None = None) -> None:
    """Raises DicmError on every rank when ranks give different values. Each rank sends its value to all."""
    values = _gathered(value, group)
    if len(set(values)) > 1:
        told = some([f"rank {rank}: {each}" for rank, each in enumerate(values)])
        todo = "All ranks read the same folder, or copies of it."
        raise DicmError(f"the ranks have different ones. {told}", where=what, todo=todo)


def raise_together(error: DicmError | None, group: distributed.ProcessGroup | None = None) -> None:
    """Raises, on every rank, the error of the first rank that has one. Each rank sends its error, or None, to all."""
    told = None if error is None else (type(error), error.what, error.where, error.todo)
    errors = _gathered(told, group)
    for rank, each in enumerate(errors):
        if each is not None:
            kind, what, where, todo = each
            others = sum(other is not None for other in errors) - 1
            more = f" ({others} other ranks have an error too)" if others else ""
            raise kind(f"rank {rank}: {what}{more}", where=where, todo=todo)


def _gathered(value: Any, group: distributed.ProcessGroup | None) -> list[Any]:
    values: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(values, value, group=group)
    return values
