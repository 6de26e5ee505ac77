"""The package's docstring is the map of the data's way: it names every file, and only files that exist."""

import re
from pathlib import Path

import dicm_kit

PACKAGE = Path(dicm_kit.__file__).parent
MAP = dicm_kit.__doc__ or ""
NAMED = set(re.findall(r"`([\w/]+\.py)`", MAP))
FILES = sorted(
    str(path.relative_to(PACKAGE))
    for path in PACKAGE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")  # they hold no step of the way
)


def _is(name: str, file: str) -> bool:
    """Returns whether a name on the map means the file: the map leaves out the folder whose line it is in."""
    return f"/{file}".endswith(f"/{name}")


def test_every_file_is_on_the_map() -> None:
    assert len(FILES) > 40
    assert "`recipe/` reads recipes" in MAP.replace("\n", " ")  # named as a whole
    rest = [file for file in FILES if not file.startswith("recipe/")]
    missing = [file for file in rest if not any(_is(name, file) for name in NAMED)]
    assert missing == [], "name them in the docstring of dicm_kit/__init__.py"


def test_the_map_names_only_files_that_exist() -> None:
    assert [name for name in sorted(NAMED) if not any(_is(name, file) for file in FILES)] == []
