"""Files that are there whole or not at all, whenever the process or the power goes."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes a file aside, syncs it and puts it in place; any number of processes may write the same."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
