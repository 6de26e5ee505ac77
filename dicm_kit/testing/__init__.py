"""What plugin authors import: a Contract for each kind of component, whose checks pytest runs one by one.

```python
from dicm_kit.testing import AggregatorContract


class TestRecency(AggregatorContract):
    component = dicm_interest_aggregators()[0]
    configs = [{}, {"half_life": 2.0}]
```

`dicm check my_plugin.py` runs the same checks without a test file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicm_kit.testing.contract import AggregatorContract as AggregatorContract
    from dicm_kit.testing.contract import BackboneContract as BackboneContract
    from dicm_kit.testing.contract import BaseNetContract as BaseNetContract
    from dicm_kit.testing.contract import DataSourceContract as DataSourceContract
    from dicm_kit.testing.contract import EncoderContract as EncoderContract

_HOME = {
    "AggregatorContract": "contract",
    "BackboneContract": "contract",
    "BaseNetContract": "contract",
    "DataSourceContract": "contract",
    "EncoderContract": "contract",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # on first use: the pytest plugin is in this package, and must not wait for torch
    if name in _HOME:
        return getattr(import_module(f"dicm_kit.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dicm_kit.testing' has no attribute '{name}'")
