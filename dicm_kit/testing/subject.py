"""What is checked: a component with one config, and the sizes and inputs that it is tried with."""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from dicm_kit.errors import DicmError, FieldError
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.interfaces import Component
from dicm_kit.registry import KINDS
from dicm_kit.testing.check import Failed
from dicm_kit.testing.given import config_of
from dicm_kit.testing.tensors import copied, mapped, same

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Subject:
    """A component with one config."""

    kind: str
    """As `registry.KINDS` calls it."""
    component: Component[Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    """The config as a recipe would write it."""
    overrides: tuple[str, ...] = ()
    """`key=value` of the command line."""
    no_effect: Mapping[str, str] = field(default_factory=dict)
    shapes: tuple[Any, ...] = ()
    """Sizes to build with; empty: those of the kind's own settings that the component takes."""
    others: tuple[Mapping[str, Any], ...] = ()
    """The component's other configs: values to try for a key."""

    @property
    def noun(self) -> str:
        """As messages call the kind."""
        return KINDS[self.kind].noun

    @cached_property
    def config(self) -> Any:
        """The config, by the rules of recipes; RecipeError where a recipe could not say it."""
        return config_of(self.component, self.given, self.overrides)

    def siblings(self) -> list["Subject"]:
        """Returns the component with each of its other configs."""
        return [replace(self, given=each, others=()) for each in self.others]

    @cached_property
    def settings(self) -> list["Setting[Any]"]:
        """The settings in which it can be built: a FieldError says that it is not for these sizes.

        Raises:
            FieldError: it takes none of them.
        """
        from dicm_kit.testing.settings import settings_of

        refused: FieldError | None = None
        taken = []
        for setting in settings_of(self):
            try:
                setting.build()
            except FieldError as error:
                refused = refused or error
                continue
            except (Failed, DicmError):
                raise
            except Exception:
                pass  # it fails in the checks, with its traceback
            taken.append(setting)
        if not taken and refused is not None:
            raise refused
        return taken


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators, as a run does, and puts them back."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which imports torch._dynamo, for seconds
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class Setting(ABC, Generic[Inputs]):
    """The sizes a component is built for, the inputs that fit them, and how it is called."""

    def __init__(self, subject: Subject, name: str = "", shapes: Any = None):
        self.subject, self.name, self.shapes = subject, name, shapes

    def build(self, seed: int = 0, config: Any = None) -> Any:
        """Returns the component in evaluation mode, built with the global generator at `seed`, which is put back.

        Raises:
            Failed: it is not what its interface says.
        """
        config = copy.deepcopy(self.subject.config if config is None else config)
        with seeded(seed):
            built = self.subject.component.build(config, self.shapes)
            self._look(built)
            if isinstance(built, nn.Module):
                for table in sharded_tables(built).values():
                    table.hold()  # all rows, as with one rank
                built.eval()
        return built

    def _look(self, built: Any) -> None:
        interface = KINDS[self.subject.kind].interface
        if not isinstance(built, interface):
            raise Failed(
                f"`build` returned a {type(built).__name__}, no {interface.__name__}; subclass"
                f" `dicm_kit.{interface.__name__}` and return an instance"
            )
        made = type(built)
        unset = [each for each in interface.__annotations__ if not (hasattr(made, each) or hasattr(built, each))]
        if unset:
            raise Failed(f"it does not set {', '.join(f'`{each}`' for each in unset)}; set it in `__init__`")

    @abstractmethod
    def inputs(self, rows: int = 5, seed: int = 1) -> Inputs:
        """Returns what it is called with, of `rows` examples; the same for the same seed."""

    @abstractmethod
    def run(self, module: Any, inputs: Inputs) -> dict[str, Tensor]:
        """Calls the module; returns what it gives, by name."""

    @abstractmethod
    def mixed(self, ours: Inputs, theirs: Inputs, rows: Tensor) -> Inputs:
        """Returns inputs whose `rows` (booleans) are ours and whose others are theirs."""

    def part(self, inputs: Inputs, first: int, end: int) -> Inputs:
        """Returns the examples `first` to `end` alone."""
        return cast(Inputs, mapped(inputs, lambda each: each[first:end]))

    def try_out(self) -> None:
        """Calls it once with ordinary input.

        Raises:
            Failed: it gives something else than its interface says.
            Exception: whatever it raises itself.
        """
        for name, each in self.run(self.build(), self.inputs()).items():
            if not isinstance(each, Tensor):
                raise Failed(f"`{name}` is a {type(each).__name__}; return a Tensor")

    @cached_property
    def runs(self) -> bool:
        """Whether it can be called at all; the check `runs` says why not."""
        try:
            self.try_out()
        except Exception:
            return False
        return True

    @cached_property
    def repeats(self) -> bool:
        """Whether the same input gives the same output; also True where it gives none, which other checks tell."""
        try:
            module, inputs = self.build(), self.inputs()
            first = copied(self.run(module, inputs))
            return same(first, self.run(module, inputs))
        except Exception:
            return True

    def inputs_for(self, module: Any) -> Inputs:
        """Returns what this very component is called with; of a backbone, pixels that its transform made."""
        return self.inputs()
