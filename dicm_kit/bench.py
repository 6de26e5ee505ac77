"""`dicm bench`: a recipe's training step measured whole and in parts, beside the floor of its picture part."""

import torch
from rich.console import Console

from dicm_kit.artifacts.results import plain_table
from dicm_kit.images.server import ImageServer
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.session import Session
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.measure_steps import WARM_UP, Measured, MeasureSteps
from dicm_kit.training.part_clock import BACK_BACKBONE, BACKBONE, GATHER, LEG

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def only_train(loaded: LoadedRecipe, steps: int) -> None:
    """Makes a recipe train so many steps after those that warm up, and write nothing."""
    recipe = loaded.recipe
    recipe.trainer.max_epochs, recipe.trainer.max_steps = None, WARM_UP + steps
    recipe.trainer.logger, recipe.trainer.validate_every, recipe.checkpoint.monitor = "none", None, None


def measure(session: Session, steps: int) -> Measured:
    """Returns the measured step of a session whose recipe `only_train` has changed; the model is trained by it."""
    trainer = session.trainer
    measuring = MeasureSteps(steps, DTYPES[session.recipe.trainer.precision])
    kept = [each for each in trainer.callbacks if not isinstance(each, Checkpoints)]  # type: ignore[attr-defined]
    trainer.callbacks = [*kept, measuring]  # type: ignore[attr-defined]
    trainer.limit_val_batches = 0
    session.fit(None)
    assert measuring.measured is not None, "the fit has ended"
    return measuring.measured


def print_measured(session: Session, found: Measured, console: Console | None = None) -> None:
    """Prints what was measured: a line a part, and the floor of those that have one."""
    console = console or Console()
    trainer = session.recipe.trainer
    device = session.trainer.strategy.root_device
    where = f"{found.ranks} rank{'s' if found.ranks > 1 else ''}, {_device(device)}, {trainer.precision}"
    print(
        f"{session.loaded.path}: {where}\n"
        f"{found.steps} steps of {found.impressions:,.0f} impressions after {WARM_UP} to warm up: one half measured "
        "whole, the other in parts,\nby turns; means of the middle half. Without validation, checkpoints and log."
    )
    table = plain_table("", "one step")
    for title in ("ms", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for part, seconds in found.parts.items():
        mark = " *" if part in found.picture_parts else ""
        table.add_row(part + mark, f"{1000 * seconds:,.3f}", f"{seconds / found.in_parts:.1%}")
    table.add_row("all parts", f"{1000 * found.in_parts:,.3f}", "100.0%", style="bold")
    speed = f"{found.impressions / found.whole:,.0f} impressions/s"
    table.add_row(f"whole, without a clock: {speed}", f"{1000 * found.whole:,.3f}", "")
    console.print(table)
    print(f"\n{_pictures(session, found)}")


def _pictures(session: Session, found: Measured) -> str:
    floor, server = found.floor, session.module.server
    if floor is None:
        return "The recipe has no pictures, so there is no floor to compare with."
    assert isinstance(server, ImageServer), "it has a floor"
    embedder, trained = server.embedder, server.backbone is not None
    first = next(layer for layer in embedder if isinstance(layer, torch.nn.Linear))
    seconds = floor.embedder + floor.gather
    of_rank = f", {found.pictures / found.ranks:,.1f} on each rank," if found.ranks > 1 else ""
    if session.recipe.trainer.strategy != "image_server" and found.ranks > 1:
        of_rank = f" on ranks, added up{of_rank}"  # pictures that several ranks compute count several times
    lines = [
        f"pictures: {found.references:,.1f} references, V = {found.pictures:,.1f} distinct{of_rank} a step; "
        f"C = {embedder.in_dim}, H1 = {first.out_features}, I = {embedder.dim}",
        f"floor of the picture part (*): {1000 * seconds:,.3f} ms",
        f"  embedder {1000 * floor.embedder:,.3f} ms: {floor.operations / 1e9:,.3f} GFLOP at "
        f"{floor.operations_per_second / 1e9:,.0f} GFLOP/s (large products in {_name(session)}, measured)",
    ]
    if trained:
        lines.append("  It covers the embedder alone. A trained backbone and the decoding of pictures are not in it:")
        apart = sum(found.parts.get(part, 0.0) for part in (GATHER, BACKBONE, BACK_BACKBONE))
        apart += found.ahead.get("lookup", 0.0)
        lines.append(f"  they took {1000 * apart:,.3f} ms, {apart / found.in_parts:.1%} of the step.")
    else:
        lines.append(
            f"  gather {1000 * floor.gather:,.3f} ms: {floor.bytes / 1e6:,.3f} MB at "
            f"{floor.bytes_per_second / 1e9:,.1f} GB/s (large copies where the store is, measured)"
        )
    gather = ", the gather ahead of the step included" if found.ahead and not trained else ""
    took = f"{1000 * found.picture_part:,.3f} ms, {found.picture_part / seconds:.2f} x the floor"
    lines.append(f"measured (*{gather}): {took}")
    legs = sum(found.parts.get(LEG(leg), 0.0) for leg in ("sizes", "keys", "vectors", "gradients"))
    if legs:
        lines.append(f"exchange, the wait for slower ranks included, not in the floor: {1000 * legs:,.3f} ms")
    if found.ahead:
        took = ", ".join(f"{leg} {1000 * seconds:,.3f}" for leg, seconds in found.ahead.items())
        lines.append(
            f"begun ahead, beside the step before, in ms: {took}. A step waits only for what is not ready then;"
        )
        lines.append("  trainer.look_ahead=false makes them parts of their own step.")
    return "\n".join(lines)


def _name(session: Session) -> str:
    return str(DTYPES[session.recipe.trainer.precision]).removeprefix("torch.")


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''} each"
