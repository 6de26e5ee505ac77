"""Will it fit? The memory of each rank of a recipe, estimated before anything runs; and what to change if not."""

from dicm_kit.data.dataset import Dataset
from dicm_kit.errors import DicmError
from dicm_kit.memory import resident
from dicm_kit.memory_model import Machine, MemoryModel
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.training.memory_parts import Estimate, Part, size_text


def refuse_what_cannot_fit(loaded: LoadedRecipe, dataset: Dataset | None, machine: Machine | None = None) -> None:
    """Raises RecipeError when what surely is held at once is more than there is; allocates nothing.

    Surely: the process, id tables with their optimizer state, a store in memory. Tables whose vocabulary is not known
    yet do not count.
    """
    machine = machine or Machine.of(loaded)
    _refuse(loaded, MemoryModel(loaded, dataset, machine).held(resident() or 0), machine)


def estimated(loaded: LoadedRecipe, dataset: Dataset | None, machine: Machine | None = None) -> tuple[Estimate, str]:
    """Returns the estimate and what to say about it; tries a step in small. RecipeError as above.

    `dataset` is None when it is not prepared: what depends on it is said to be unknown.
    """
    machine = machine or Machine.of(loaded)
    model = MemoryModel(loaded, dataset, machine)
    _refuse(loaded, model.held(resident() or 0), machine)
    found = model.whole()
    return found, in_words(found, machine)


def _refuse(loaded: LoadedRecipe, found: Estimate, machine: Machine) -> None:
    for what, limit, ranks, on_device in _places(machine):
        needed = ranks * found.sure(on_device)
        if limit is None or needed <= limit:
            continue
        largest = found.largest(on_device, sure=True)
        if not largest:  # not even the process fits, which runs
            continue
        most = [each for each in largest if 20 * each.bytes >= largest[0].bytes][:3]
        named = "; ".join(f"{each.name} {size_text(each.bytes)}" for each in most)
        each_rank = f", {size_text(found.sure(on_device))} for each of {ranks} ranks" if ranks > 1 else ""
        raise loaded.error(
            largest[0].key,
            f"this needs {size_text(needed)} of memory at least{each_rank}; {what} has {size_text(limit)}. "
            f"The largest parts of a rank: {named}",
            f"Change `{largest[0].key}`: {largest[0].todo}.",
        )


def _places(machine: Machine) -> list[tuple[str, int | None, int, bool | None]]:
    """Returns name, limit, ranks that share it, and which parts are there."""
    if machine.device is None:
        return [("this machine", machine.host, machine.ranks, None)]
    return [("this machine", machine.host, machine.ranks, False), ("a GPU here", machine.device, 1, True)]


def in_words(found: Estimate, machine: Machine) -> str:
    """Returns the estimate as lines, with a warning where it is more than there is."""
    lines = []
    for what, limit, ranks, on_device in _places(machine):
        total = found.total(on_device)
        where = "" if on_device is None else " on its GPU" if on_device else " outside its GPU"
        has = f"{what} has {size_text(limit)}" if limit is not None else f"what {what} has is not known"
        several = f" for {ranks} ranks" if ranks > 1 else ""
        lines.append(f"memory of a rank{where}, estimated: {size_text(total)} at its peak; {has}{several}")
        lines += _listed([each for each in found.held if on_device in (None, each.on_device)], total)
        moments = _listed([each for each in found.moments if on_device in (None, each.on_device)], total)
        if moments:
            lines += ["  and one of these at a time:", *moments]
        if limit is not None and ranks * total > limit:
            lines.append("  warning: that may be too much.")
            largest = found.largest(on_device)[:1]
            lines += [f"  Change `{each.key}`, for {each.name}: {each.todo}." for each in largest]
    lines += [f"  beside it: {each.name}, {size_text(each.bytes)}" for each in found.apart if each.bytes]
    lines += [f"  not counted: {each}" for each in found.unknown]
    return "\n".join(lines)


def _listed(found: list[Part], total: int) -> list[str]:
    """Returns a line for each part, the largest first; those below a hundredth of all in one line."""
    parts = sorted((each for each in found if each.bytes), key=lambda each: -each.bytes)
    shown = [each for each in parts if 100 * each.bytes >= total]
    lines = [f"  {size_text(each.bytes):>10}  {each.name}{f': {each.note}' if each.note else ''}" for each in shown]
    rest = parts[len(shown) :]
    if rest:
        lines.append(f"  {size_text(sum(each.bytes for each in rest)):>10}  {len(rest)} smaller ones together")
    return lines


def dataset_of(loaded: LoadedRecipe) -> Dataset | None:
    """Returns the recipe's dataset where it is prepared."""
    try:
        return Dataset.open(loaded.recipe.data.out)
    except DicmError:
        return None
