import copy

import pytest
import torch
from torch import nn

from dicm_kit.features.tables import IdTable
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan, clip_norm, clip_values, decay_schedule

ROWS, DIM = 12, 3
BATCHES = [[1, 2, 2, 5], [5, 0], [2], [11, 1], [2, 2, 2, 7], []]


def parts(seed=0):
    torch.manual_seed(seed)
    return IdTable(ROWS, DIM, init_std=1.0), nn.Linear(DIM, 1)


def backward(table, linear, ids):
    (linear(table(torch.tensor(ids, dtype=torch.int64))) ** 2).sum().backward()


def test_each_row_is_trained_by_the_adam_of_its_own_steps():
    table, linear = parts()
    plan = OptimizerPlan(dense_lr=0.02, ids_lr=0.1)
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], plan)
    # The same in dense Adam: one parameter, and one optimizer, for each row.
    rows = [nn.Parameter(each.detach().clone()) for each in table.rows.weight]
    adams = [torch.optim.Adam([row], lr=0.1) for row in rows]
    other = copy.deepcopy(linear)
    dense = torch.optim.Adam(other.parameters(), lr=0.02)
    for ids in BATCHES:
        optimizer.zero_grad()
        backward(table, linear, ids)
        optimizer.step()
        for each in (dense, *adams):
            each.zero_grad()
        if ids:
            (other(torch.stack([rows[each] for each in ids])) ** 2).sum().backward()
        else:  # an empty batch still steps the dense part, with zero gradients
            for each in other.parameters():
                each.grad = torch.zeros_like(each)
        for each in (dense, *adams):
            each.step()
    expected = torch.stack([row.detach() for row in rows])
    assert torch.allclose(table.rows.weight, expected, atol=1e-6)
    for mine, theirs in zip(linear.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize(("eps", "accumulator"), [(None, 0.0), (1e-3, 0.5)])
def test_lazy_adagrad_is_adagrad_on_dense_gradients(eps, accumulator):
    table, linear = parts()
    dense, other = nn.Parameter(table.rows.weight.detach().clone()), copy.deepcopy(linear)
    plan = OptimizerPlan(
        ids_rule="lazy_adagrad",
        ids_lr=0.1,
        ids_eps=eps,
        ids_initial_accumulator=accumulator,
        decay_every=2,
        decay_factor=0.5,
    )
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], plan)
    torchs = torch.optim.Adagrad(
        [dense], lr=0.1, initial_accumulator_value=accumulator, eps=1e-10 if eps is None else eps
    )
    adam = torch.optim.Adam(other.parameters(), lr=plan.dense_lr)
    schedules = [decay_schedule(each, plan) for each in (optimizer, torchs, adam)]
    for ids in BATCHES:
        for each in (optimizer, torchs, adam):
            each.zero_grad()
        backward(table, linear, ids)
        rows = nn.functional.embedding(torch.tensor(ids, dtype=torch.int64), dense)
        (other(rows) ** 2).sum().backward()
        clip_norm([table.rows.weight, *linear.parameters()], 1.0)
        clip_norm([dense, *other.parameters()], 1.0)
        for each in (optimizer, torchs, adam, *schedules):
            each.step()
    assert not torch.equal(dense, parts()[0].rows.weight)
    assert torch.allclose(table.rows.weight, dense, atol=1e-6)
    assert torch.allclose(optimizer.state[table.rows.weight]["sum"], torchs.state[dense]["sum"], atol=1e-6)


def test_adagrad_keeps_half_of_what_adam_keeps():
    def kept(rule, l2=0.0):
        table, linear = parts()
        optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], OptimizerPlan(ids_rule=rule, ids_l2=l2))
        backward(table, linear, [1])
        optimizer.step()
        return {name: value.numel() for name, value in optimizer.state[table.rows.weight].items()}

    assert kept("lazy_adam") == {"exp_avg": ROWS * DIM, "exp_avg_sq": ROWS * DIM, "row_steps": ROWS}
    assert kept("lazy_adagrad") == {"sum": ROWS * DIM}
    assert kept("lazy_adagrad", l2=0.1) == {"sum": ROWS * DIM, "row_steps": ROWS}


@pytest.mark.parametrize("rule", ["lazy_adam", "lazy_adagrad"])
def test_rows_that_are_not_named_keep_every_bit(rule):
    table, linear = parts()
    plan = OptimizerPlan(ids_rule=rule, ids_l2=0.1, weight_decay=0.1)
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], plan)
    backward(table, linear, list(range(ROWS)))  # all rows have a state
    optimizer.step()
    state = optimizer.state[table.rows.weight]
    before = {name: value.clone() for name, value in state.items()} | {"rows": table.rows.weight.detach().clone()}
    optimizer.zero_grad()
    backward(table, linear, [3, 7, 3])
    optimizer.step()
    after = {**state, "rows": table.rows.weight.detach()}
    others = torch.ones(ROWS, dtype=torch.bool)
    others[[3, 7]] = False
    for name, value in after.items():
        assert torch.equal(value[others], before[name][others]), name
        assert (value[~others] != before[name][~others]).any(dim=1).all(), name


@pytest.mark.parametrize("rule", ["lazy_adam", "lazy_adagrad"])
def test_no_operation_of_a_step_is_as_large_as_the_table(rule):
    table, linear = IdTable(50_000, DIM), nn.Linear(DIM, 1)
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], OptimizerPlan(ids_rule=rule, ids_l2=0.1))
    backward(table, linear, [1, 2])
    optimizer.step()  # makes the state
    optimizer.zero_grad()
    backward(table, linear, [1, 2, 40_000])
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            in_place = func.__name__.split(".")[0].endswith("_")
            if isinstance(out, torch.Tensor) and not out.is_sparse and not in_place:
                made.append((func.__name__, out.numel()))
            return out

    with Watch():
        optimizer.step()
    assert made
    own = {id(each) for each in (table.rows.weight, *optimizer.state[table.rows.weight].values())}
    assert own
    assert max(size for name, size in made if "detach" not in name and "alias" not in name) <= 3 * DIM + 10


def test_mini_batch_aware_regularisation_of_adagrad_by_hand():
    table, linear = parts()
    plan = OptimizerPlan(ids_rule="lazy_adagrad", ids_lr=0.1, ids_l2=0.3)
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], plan)
    row, total = table.rows.weight[4].detach().clone(), torch.zeros(DIM)
    for step in (1, 2, 3):
        grad = torch.tensor([[0.5, -1.0, 2.0]])
        table.rows.weight.grad = torch.sparse_coo_tensor([[4]], grad, (ROWS, DIM), check_invariants=True)
        optimizer.step()
        g = grad[0] + 0.3 / step * row
        total += g**2
        row -= 0.1 * g / total.sqrt()
        assert torch.allclose(table.rows.weight[4], row, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_mini_batch_aware_regularisation_by_hand(l2):
    table, linear = parts()
    optimizer = CtrOptimizer(
        linear.parameters(), [table.rows.weight], OptimizerPlan(ids_l2=l2, betas=(0.0, 0.0), eps=1.0)
    )
    rows = table.rows.weight.detach().clone()
    for step in (1, 2):
        optimizer.zero_grad()
        grad = torch.tensor([[0.5, -1.0, 2.0]])
        table.rows.weight.grad = torch.sparse_coo_tensor([[4]], grad, (ROWS, DIM), check_invariants=True)
        optimizer.step()
        # Without moments: g / (|g| + 1), where g has gained lambda / (steps of the row) * row.
        g = grad[0] + l2 / step * rows[4]
        rows[4] -= 1e-3 * g / (g.abs() + 1.0)
        assert torch.allclose(table.rows.weight[4], rows[4], atol=1e-7)


def test_learning_rates_are_apart_and_decay_together():
    table, linear = parts()
    backbone = nn.Linear(2, 2)
    plan = OptimizerPlan(dense_lr=0.1, ids_lr=0.2, backbone_lr=0.01, decay_every=2, decay_factor=0.5)
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], plan, backbone.parameters())
    schedule = decay_schedule(optimizer, plan)
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates[0] == rates[1] == [0.1, 0.01, 0.2]
    assert rates[2] == rates[3] == pytest.approx([0.05, 0.005, 0.1])
    assert rates[4] == pytest.approx([0.025, 0.0025, 0.05])


@pytest.mark.parametrize("rule", ["lazy_adam", "lazy_adagrad"])
def test_state_survives_saving_and_loading_with_every_bit(rule):
    def run(optimizer, table, linear, batches):
        for ids in batches:
            optimizer.zero_grad()
            backward(table, linear, ids)
            optimizer.step()

    def fresh():
        table, linear = parts()
        plan = OptimizerPlan(ids_rule=rule, ids_lr=0.1, ids_l2=0.1)
        return table, linear, CtrOptimizer(linear.parameters(), [table.rows.weight], plan)

    table, linear, optimizer = fresh()
    run(optimizer, table, linear, BATCHES)
    table2, linear2, optimizer2 = fresh()
    run(optimizer2, table2, linear2, BATCHES[:3])
    saved = copy.deepcopy((table2.state_dict(), linear2.state_dict(), optimizer2.state_dict()))
    table3, linear3, optimizer3 = fresh()
    for each, state in zip((table3, linear3, optimizer3), saved, strict=True):
        each.load_state_dict(state)
    run(optimizer3, table3, linear3, BATCHES[3:])
    assert torch.equal(table.rows.weight, table3.rows.weight)
    assert torch.equal(linear.weight, linear3.weight)


def test_clipping_counts_sparse_gradients():
    table, linear = parts()
    backward(table, linear, [1, 2, 2, 5])  # row 2 twice: its gradient is the sum
    parameters = [table.rows.weight, *linear.parameters()]
    whole = torch.cat([each.grad.to_dense().flatten() for each in parameters])
    norm = clip_norm(parameters, 0.5)
    assert norm == pytest.approx(whole.norm().item(), rel=1e-6)
    after = torch.cat([each.grad.to_dense().flatten() for each in parameters])
    assert torch.allclose(after, whole * 0.5 / whole.norm(), atol=1e-6)
    assert table.rows.weight.grad.is_sparse
    clip_norm(parameters, 10.0)  # below the limit: as it was
    assert torch.equal(after, torch.cat([each.grad.to_dense().flatten() for each in parameters]))
    clip_values(parameters, 0.01)
    assert table.rows.weight.grad.to_dense().abs().max() <= 0.01
    assert linear.weight.grad.abs().max() <= 0.01


def test_closure_runs_with_gradients_before_the_step():
    table, linear = parts()
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], OptimizerPlan())
    before = table.rows.weight.detach().clone()

    def closure():
        loss = (linear(table(torch.tensor([1]))) ** 2).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss > 0
    assert not torch.equal(table.rows.weight[1], before[1])


def test_empty_history_slots_do_not_step_the_unknown_id():
    table, linear = parts()
    optimizer = CtrOptimizer(linear.parameters(), [table.rows.weight], OptimizerPlan(ids_l2=0.1))
    mask = torch.tensor([[True, False]])
    for ids in ([[0, 0]], [[4, 0]], [[4, 0]]):  # slot 0 filled, slot 1 empty
        optimizer.zero_grad()
        before = table.rows.weight.detach().clone()
        linear(table(torch.tensor(ids)).masked_fill(~mask.unsqueeze(-1), 0.0)).sum().backward()
        optimizer.step()
        changed = (table.rows.weight != before).any(dim=1).nonzero().flatten().tolist()
        assert changed == [ids[0][0]]
    assert optimizer.state[table.rows.weight]["row_steps"].flatten()[[0, 4]].tolist() == [1, 2]
