"""Checks of every component that is a module: what training, checkpoints and several ranks ask of it."""

import pickle
from typing import Any

import torch
from torch import Tensor, nn

from dicm_kit.testing.check import MODULES, DoesNotApply, Failed, check
from dicm_kit.testing.tensors import asking_gradients, close, copied, leaves, same

ROWS = 8


@check(*MODULES, compares=False, calls=False)
def runs(setting: Any) -> None:
    """It can be called with ordinary input, and returns what its interface says; other checks wait for that."""
    setting.try_out()


@check(*MODULES)
def pickles(setting: Any) -> None:
    """It can be pickled, and the copy gives the same."""
    module, inputs = setting.build(), setting.inputs()
    try:
        other = pickle.loads(pickle.dumps(module))
    except Exception as error:
        raise Failed(
            f"it cannot be pickled ({type(error).__name__}: {error}); keep lambdas, open files and locks out of"
            " its attributes"
        ) from error
    if not same(setting.run(module, inputs), setting.run(other, inputs)):
        raise Failed("a pickled copy gives something else; keep all that matters in attributes")


@check(*MODULES)
def state_dict_round_trip(setting: Any) -> None:
    """`state_dict` of one, loaded into another one, makes it the same: what a checkpoint keeps is enough."""
    module, other, inputs = setting.build(seed=0), setting.build(seed=1), setting.inputs()
    _stirred(module)
    try:
        other.load_state_dict(module.state_dict())
    except RuntimeError as error:
        raise Failed(f"its state_dict does not load into a fresh one: {error}") from error
    if not same(setting.run(module, inputs), setting.run(other, inputs)):
        raise Failed(
            "a fresh one with the same state_dict gives something else; register what is drawn or learned with"
            " `nn.Parameter` or `register_buffer`"
        )


@check(*MODULES, compares=False)
def eval_is_deterministic(setting: Any) -> None:
    """In evaluation mode the same input gives the same output, whatever came between."""
    module, inputs = setting.build(), setting.inputs()
    first = copied(setting.run(module, inputs))
    setting.run(module, setting.inputs(seed=2))
    if not same(first, setting.run(module, inputs)):
        raise Failed(
            "the same input gave another output in evaluation mode; look at `self.training` before dropout or noise,"
            " and keep nothing from call to call"
        )


@check(*MODULES, compares=False)
def eval_leaves_random_numbers_alone(setting: Any) -> None:
    """In evaluation mode it draws nothing from the global generators."""
    module, inputs = setting.build(), setting.inputs()
    before = random_states()
    setting.run(module, inputs)
    drawn = [name for name, state in random_states().items() if state != before[name]]
    if drawn:
        raise Failed(
            f"it drew from the global generator of {', '.join(drawn)} in evaluation mode; draw only in training"
        )


@check(*MODULES)
def eval_leaves_state_alone(setting: Any) -> None:
    """In evaluation mode it changes none of its parameters and buffers."""
    module, inputs = setting.build(), setting.inputs()
    before = copied(dict(module.state_dict()))
    setting.run(module, inputs)
    after = dict(module.state_dict())
    changed = [name for name in before if not same(before[name], after[name])]
    if changed:
        raise Failed(f"evaluation changed {', '.join(changed)}; change buffers only where `self.training`")


@check(*MODULES, compares=False)
def gives_floats(setting: Any) -> None:
    """It gives finite float32 for finite input."""
    for name, each in setting.run(setting.build(), setting.inputs()).items():
        if each.dtype != torch.float32:
            raise Failed(f"`{name}` is {each.dtype}; return float32")
        if not bool(torch.isfinite(each).all()):
            raise Failed(f"`{name}` holds NaN or infinity for ordinary input")


@check(*MODULES, compares=False)
def does_not_change_its_input(setting: Any) -> None:
    """The tensors it is given are the same afterwards."""
    module, inputs = setting.build(), setting.inputs()
    before = dict(leaves(copied(inputs)))
    for training in (False, True):
        module.train(training)
        setting.run(module, inputs)
        changed = [name for name, each in leaves(inputs) if not same(each, before[name])]
        if changed:
            raise Failed(f"it changed its input {', '.join(changed)} in place; others read it too, work on a copy")


@check(*MODULES, compares=False)
def every_parameter_gets_a_gradient(setting: Any) -> None:
    """Each trained parameter gets a gradient in a training step: DDP waits for those that do not."""
    module = setting.build().train()
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    if not trained:
        raise DoesNotApply("it has no trained parameter")
    dead = set(trained)
    for seed in (1, 2, 3):
        _backward(setting, module, asking_gradients(setting.inputs(ROWS, seed)), seed)
        unused = [name for name, each in trained.items() if each.grad is None]
        if unused:
            raise Failed(
                f"no gradient reaches {', '.join(unused)}; several ranks would wait for it. Use it in `forward`, or"
                " leave it out, or set `requires_grad` to False"
            )
        dead -= {name for name, each in trained.items() if each.grad is not None and _moves(each.grad)}
        _stirred(module)
    if dead:
        raise Failed(
            f"the gradient of {', '.join(sorted(dead))} is zero whatever the input is (`detach()`? `no_grad()`?);"
            " it would never be trained"
        )


@check(*MODULES, compares=False)
def batch_of_zero(setting: Any) -> None:
    """A batch without examples works, and its backward reaches every parameter: a rank whose data has ended."""
    module = setting.build().train()
    out = setting.run(module, asking_gradients(setting.inputs(0)))
    for name, each in out.items():
        if each.shape[0] != 0:
            raise Failed(f"`{name}` has {each.shape[0]} rows for a batch without examples; none were given")
    total = sum(each.sum() for each in out.values())
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()
    parameters = dict(module.named_parameters())
    reached = {name for name, each in parameters.items() if each.grad is not None}
    _backward(setting, module, asking_gradients(setting.inputs(ROWS)), 1)
    unused = [name for name, each in parameters.items() if each.grad is not None and name not in reached]
    if unused:
        raise Failed(
            f"a batch without examples gives no gradient to {', '.join(unused)}; no early return: let the empty tensors"
            " pass through"
        )


@check(*MODULES)
def bfloat16(setting: Any) -> None:
    """Under `precision: bf16-mixed` it works forward and backward, and gives about the same."""
    module, inputs = setting.build(), setting.inputs(ROWS)
    exact = setting.run(module, inputs)
    asking = asking_gradients(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = setting.run(module, asking)
    for name, each in rough.items():
        if not bool(torch.isfinite(each).all()):
            raise Failed(f"`{name}` holds NaN or infinity under bf16 (a constant such as 1e-12 or 1e39?)")
        size = exact[name].detach().float().pow(2).mean().sqrt().clamp_min(1e-3)
        off = float(((each.detach().float() - exact[name].detach().float()).abs().max() / size).item())
        if off > 0.3:
            raise Failed(
                f"`{name}` is off by {off:.2f} of its size under bf16; compute what is delicate in float32"
                " (`torch.autocast(..., enabled=False)`)"
            )
    total = sum(each.float().sum() for each in rough.values())
    if isinstance(total, Tensor) and total.requires_grad:
        total.backward()


@check(*MODULES, compares=False)
def moves_with_to(setting: Any) -> None:
    """`.to(device)` takes all its tensors along."""
    module = setting.build()
    setting.run(module, setting.inputs())  # some are made at the first call
    stray = [
        f"{name}.{attribute}".removeprefix(".")
        for name, each in module.named_modules()
        for attribute, value in vars(each).items()
        if attribute not in ("_parameters", "_buffers", "_modules") and any(True for _ in leaves(value))
    ]
    if stray:
        raise Failed(
            f"{', '.join(stray)} holds a tensor that `.to(device)` does not move; use `register_buffer` (with"
            " `persistent=False` where a checkpoint need not keep it)"
        )


@check(*MODULES, calls=False)
def same_seed_same_parameters(setting: Any) -> None:
    """Built twice with the same seed it starts from the same parameters."""
    if not same(dict(setting.build(seed=3).state_dict()), dict(setting.build(seed=3).state_dict())):
        raise Failed(
            "two builds with the same seed differ; draw from torch's global generator, not from one of its own"
        )


@check(*MODULES)
def examples_do_not_see_each_other(setting: Any) -> None:
    """What one example gets does not depend on the others of the batch."""
    module = setting.build()
    ours, theirs = setting.inputs(seed=1), setting.inputs(seed=2)
    rows = torch.tensor([False, True, False, False, True])
    expected, got = setting.run(module, ours), setting.run(module, setting.mixed(ours, theirs, rows))
    for name in expected:
        if not close(expected[name][rows], got[name][rows]):
            raise Failed(
                f"an example's `{name}` changed when only the others of the batch changed; no BatchNorm and no sum or"
                " softmax over dim 0"
            )
    if getattr(module, "uses_batch", False):
        return
    module.train()
    asking = asking_gradients(ours)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        out = setting.run(module, asking)
    floats = {path: leaf for path, leaf in leaves(asking) if leaf.requires_grad}
    for name, each in out.items():
        if not floats or not each.requires_grad:
            continue
        grads = torch.autograd.grad(each[0].pow(2).sum(), list(floats.values()), retain_graph=True, allow_unused=True)
        for path, grad in zip(floats, grads, strict=True):
            if grad is not None and bool((grad[1:] != 0).any()):
                raise Failed(
                    f"while training, an example's `{name}` depends on the others' `{path}`; no BatchNorm and no sum or"
                    " softmax over dim 0"
                )


def random_states() -> dict[str, Any]:
    """Returns the states of the global generators, to be compared."""
    import random

    import numpy as np

    numpy: Any = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": (numpy[1].tobytes(), numpy[2]),
    }


def _backward(setting: Any, module: nn.Module, inputs: Any, seed: int) -> None:
    """Runs a step whose loss weighs every output differently."""
    module.zero_grad()
    g = torch.Generator().manual_seed(seed)
    out = setting.run(module, inputs)
    loss = sum((each * torch.randn(each.shape, generator=g)).sum() for each in out.values())
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.backward()


def _moves(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool((values != 0).any())


@torch.no_grad()
def _stirred(module: nn.Module) -> None:
    """Moves every trained parameter a little: what starts at zero lets no gradient through."""
    g = torch.Generator().manual_seed(0)
    for each in module.parameters():
        if each.requires_grad:
            each.add_(0.1 * torch.randn(each.shape, generator=g))
