import sys
from pathlib import Path

import pytest

# small.py is shared by the files of this folder
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the plugins that are installed on this machine."""
    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", lambda group: [])
