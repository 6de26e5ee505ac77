"""All that can be told of a component from outside: what two configs are compared by."""

from typing import Any

import torch
from torch import Tensor, nn

from dicm_kit.registry import KINDS
from dicm_kit.testing.subject import seeded
from dicm_kit.testing.tensors import copied, leaves, same

Trace = dict[str, Any]


def trace(setting: Any, config: Any) -> Trace:
    """Returns attributes, parameters and outputs of the component built from `config`; of a source, its streams."""
    built = setting.build(config=config)
    if not isinstance(built, nn.Module):
        streams: Trace = setting.streams(built)
        return streams
    interface = KINDS[setting.subject.kind].interface
    found: Trace = {name: getattr(built, name, None) for name in interface.__annotations__}
    found["trained"] = [name for name, each in built.named_parameters() if each.requires_grad]
    found["state"] = copied(dict(built.state_dict()))
    inputs = setting.inputs_for(built)
    found["inputs"] = copied(dict(leaves(inputs)))
    for training in (False, True):
        built.train(training)
        with seeded(0), torch.no_grad():
            found[f"output {training}"] = copied(setting.run(built, inputs))
    return found


def different(one: Trace, other: Trace) -> bool:
    """Says whether anything differs."""
    return one.keys() != other.keys() or any(not _alike(one[name], other[name]) for name in one)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and all(isinstance(each, Tensor) for each in one.values()):
        return isinstance(other, dict) and same(one, other)
    return bool(one == other)
