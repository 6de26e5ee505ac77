"""`features.yaml`: what a feature folder holds and what it was made for. Written, read, and a folder found by it."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dicm_kit.errors import ImageError
from dicm_kit.images.parts import VERSION, keys_path, read_rejected
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.whole_file import write_whole

FEATURES_FILE = "features.yaml"


def features_fingerprint(backbone: ImageBackbone, pictures_fingerprint: str) -> str:
    """Returns 16 hex digits that change whenever a vector could: by the backbone, or by the pictures."""
    return sha256(f"{VERSION} {backbone.fingerprint} {pictures_fingerprint}".encode()).hexdigest()[:16]


def find_features(features_folder: Path, request: dict[str, Any], pictures_fingerprint: str) -> Path | None:
    """Returns the whole feature folder of a recipe's backbone section, without building the backbone; None if none.

    A file that the request names (its weights) must still have the size and time of change it had.
    """
    request = plain(request)
    wanted = {"version": VERSION, "request": request, "pictures": pictures_fingerprint, "files": _files(request)}
    for path in sorted(Path(features_folder).glob(f"*/{FEATURES_FILE}")):
        try:
            found = read_features(path.parent)
        except ImageError:
            continue  # whoever needs this one will say so
        if all(found.get(name) == value for name, value in wanted.items()):
            return path.parent
    return None


def read_features(folder: Path) -> dict[str, Any]:
    """Returns the features.yaml of a folder; ImageError when there is none, or none of this version."""
    path = folder / FEATURES_FILE
    if not path.exists():
        todo = "Extract again: `dicm extract RECIPE` goes on where it stopped."
        raise ImageError("no such file: the vectors are not (wholly) extracted", where=str(path), todo=todo)
    try:
        meta = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ImageError("is garbled", where=str(path), todo="Delete the feature folder and extract again.") from error
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        raise ImageError(f"not a feature folder of version {VERSION}", where=str(path), todo="Extract again.")
    return meta


def write_features(
    folder: Path, backbone: ImageBackbone, request: dict[str, Any], partitions: int, pictures_fingerprint: str
) -> None:
    """Writes features.yaml, which says that the folder is whole."""
    rejected: dict[int, str] = {}
    count = 0
    for partition in range(partitions):
        rejected.update(read_rejected(folder, partition))
        count += len(np.load(keys_path(folder, partition), mmap_mode="r"))
    features = {
        "version": VERSION,
        "fingerprint": folder.name,
        "backbone": backbone.fingerprint,
        "pictures": pictures_fingerprint,
        "partitions": partitions,
        "dim": backbone.out_dim,
        "count": count,
        "request": request,
        "files": _files(request),
        "rejected": rejected,
    }
    write_whole(folder / FEATURES_FILE, yaml.safe_dump(features, sort_keys=False).encode())


def plain(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the request as it will be read from features.yaml: tuples are lists there."""
    return yaml.safe_load(yaml.safe_dump(request))


def _files(request: dict[str, Any]) -> dict[str, list[int]]:
    """Returns size and time of change of every file that the request names."""
    files = {}
    for value in request.values():
        if isinstance(value, str) and value and Path(value).is_file():
            stat = Path(value).stat()
            files[value] = [stat.st_size, stat.st_mtime_ns]
    return files
