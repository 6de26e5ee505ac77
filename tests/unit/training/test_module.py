import dataclasses

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from toy import LENGTH, ToyData, share_of, toy_batch, toy_module

from dicm_kit.errors import TrainingError
from dicm_kit.training.metrics import auc, gauc
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.per_impression import Repeat, Repeated
from dicm_kit.training.slices import TargetSlices
from dicm_kit.types import Interest


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "num_sanity_val_steps": 0, **quiet}
    return Trainer(**{**defaults, **options})


def test_a_group_of_many_predicts_as_many_groups_of_one():
    batch = toy_batch(6)
    assert batch.num_impressions > batch.num_groups
    each_alone = dataclasses.replace(
        batch,
        group_N=torch.arange(batch.num_impressions),
        user={name: column[batch.group_N] for name, column in batch.user.items()},
        history={name: column[batch.group_N] for name, column in batch.history.items()},
        **{name: getattr(batch, name)[batch.group_N] for name in ("mask_GL", "age_GL", "history_key_GL")},
    )
    for attention in (True, False):  # an aggregator that runs on impressions, one that runs on groups
        module = toy_module(attention=attention)
        assert torch.allclose(module(batch).logit_N, module(each_alone).logit_N, atol=1e-6)


def test_impressions_do_not_see_each_other():
    module, batch = toy_module(), toy_batch(6)
    whole = module(batch).logit_N
    for rank in range(3):
        part = share_of(batch, rank, 3)
        rows = batch.group_N % 3 == rank
        assert torch.allclose(module(part).logit_N, whole[rows], atol=1e-6)


def test_padding_is_not_read():
    module, batch = toy_module(), toy_batch(6)
    poison = dataclasses.replace(
        batch,
        history={"item_id": torch.where(batch.mask_GL, batch.history["item_id"], 7)},
        history_key_GL=torch.where(batch.mask_GL, batch.history_key_GL, 9),
        age_GL=torch.where(batch.mask_GL, batch.age_GL, torch.nan),
    )
    assert torch.equal(module(batch).logit_N, module(poison).logit_N)


def test_weights_when_asked_for():
    prediction = toy_module()(toy_batch(4), need_weights=True)
    N = len(prediction.logit_N)
    assert prediction.interest["ids"].weights.shape == (N, 1, LENGTH)
    assert prediction.interest["images"].weights.shape == (N, 2, LENGTH)
    assert toy_module()(toy_batch(4)).interest["images"].weights is None
    untargeted = toy_module(attention=False)(toy_batch(4), need_weights=True).interest["ids"]
    assert untargeted.weights.shape == (N, 1, LENGTH)
    assert untargeted.vector.shape[0] == N


def test_history_vectors_are_repeated_only_when_asked_for():
    batch = toy_batch(4)
    assert batch.num_impressions > 4
    groups = {"a": torch.randn(4, 2, 3), "b": torch.randn(4, 2, 3)}
    history = Repeated(groups, Repeat(batch), {"c": torch.randn(batch.num_impressions, 1)})
    assert set(history) == {"a", "b", "c"}
    assert len(history) == 3
    assert set(history._ready) == {"c"}
    assert torch.equal(history["a"], groups["a"][batch.group_N])
    assert history["a"] is history["a"]
    one_each = dataclasses.replace(batch, group_N=torch.arange(4))
    assert Repeat(one_each)(groups["a"]) is groups["a"]


def test_empty_batch_gives_every_parameter_a_gradient_of_zeros():
    module = toy_module()
    empty = share_of(toy_batch(1), 1, 2)
    assert (empty.num_impressions, empty.num_groups) == (0, 0)
    module(empty).logit_N.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad.to_dense(), torch.zeros_like(parameter)), name


def test_shared_history_encoder_is_one_table():
    module = toy_module()
    target, history = module.encoders["target"]["item_id_of"], module.encoders["history"]["item_id_of"]
    assert target is history
    groups = module.configure_optimizers()["optimizer"].param_groups
    tables = [each.shape for each in groups[-1]["params"]]
    assert len(tables) == 3  # users, items, tags
    counted = [id(each) for group in groups for each in group["params"]]
    assert len(counted) == len(set(counted)) == len(list(module.parameters()))


def test_training_learns_and_reports():
    module = toy_module(OptimizerPlan(dense_lr=1e-2, ids_lr=3e-2), slices=TargetSlices(torch.arange(30)))
    data = ToyData(steps=40, groups=(60,))
    fit = trainer(max_epochs=3, logger=False)
    fit.fit(module, data)
    trained = module.results["val"]["gauc"]
    assert trained > 0.65
    assert fit.callback_metrics["val/gauc"].item() == pytest.approx(trained, abs=1e-6)
    assert module.totals.impressions == toy_batch(60, seed=2039).num_impressions
    fit.test(module, data, verbose=False)
    results = module.results["test"]
    assert {"target_unseen/impressions", "target_decile_1/gauc", "history_0/auc"} <= set(results)
    assert "target_seen/auc" not in module.results["val"]
    # The same, by hand.
    batches = [toy_batch(60, seed=60_000 + step) for step in range(3)]
    with torch.no_grad():
        logit = torch.cat([module(batch).logit_N for batch in batches])
    label = torch.cat([batch.label_N for batch in batches])
    user = torch.cat([batch.user_id_N for batch in batches])
    assert results["auc"] == auc(logit, label)
    assert results["gauc"] == gauc(user, logit, label).value


def test_predictions_are_probabilities():
    module, batch = toy_module(), toy_batch(4)
    assert torch.allclose(module.predict_step(batch, 0), torch.sigmoid(module(batch).logit_N))


@pytest.mark.parametrize(("algorithm", "value"), [("norm", 1e-3), ("value", 1e-4)])
def test_clipping_through_lightning(algorithm, value):
    module = toy_module(OptimizerPlan(betas=(0.0, 0.0), eps=1.0, dense_lr=1.0, ids_lr=1.0))  # steps of about -gradient
    before = [each.detach().clone() for each in module.parameters()]
    options = {"gradient_clip_val": value, "gradient_clip_algorithm": algorithm}
    trainer(max_steps=1, limit_val_batches=0, **options).fit(module, ToyData())
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(module.parameters(), before, strict=True)])
    if algorithm == "norm":
        assert moved.norm().item() == pytest.approx(value, rel=0.01)
    else:
        assert moved.abs().max().item() == pytest.approx(value, rel=0.01)


def test_accumulation_and_decay_through_lightning():
    module = toy_module(OptimizerPlan(dense_lr=0.1, decay_every=2, decay_factor=0.5))
    fit = trainer(accumulate_grad_batches=2, limit_val_batches=0)
    fit.fit(module, ToyData(steps=6))
    assert fit.global_step == 3
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_bf16_mixed():
    exact, rough = toy_module(), toy_module()
    trainer(limit_val_batches=0).fit(exact, ToyData())
    trainer(precision="bf16-mixed", limit_val_batches=0).fit(rough, ToyData())
    assert rough.totals.loss == pytest.approx(exact.totals.loss, abs=0.02)


def with_bad_number(batch):
    broken = batch.user["type"].clone()
    broken[0] = torch.inf
    return dataclasses.replace(batch, user={**batch.user, "type": broken})


def test_loss_that_is_no_number_names_step_and_column(monkeypatch):
    def third_is_bad(num_groups, seed=0):
        batch = toy_batch(num_groups, seed=seed)
        return with_bad_number(batch) if seed == 2 else batch

    monkeypatch.setattr("toy.toy_batch", third_is_bad)
    with pytest.raises(TrainingError) as caught:
        trainer(limit_val_batches=0).fit(toy_module(), ToyData(groups=(12,)))
    message = str(caught.value)
    assert message.startswith("step 3: the loss is nan")
    assert "column user.type (1 of 12), vectors of user.type (2 of 24)" in message
    assert "lower the learning rate" in message


def test_training_that_diverged_names_parameters():
    module = toy_module()
    with torch.no_grad():
        module.net.logit.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*logits .*parameter net.logit.bias \(1 of 1\)"):
        trainer(limit_val_batches=0).fit(module, ToyData())


def test_split_without_clicks_says_so_once():
    module = toy_module()
    data = ToyData()
    quiet = dataclasses.replace(toy_batch(5), label_N=torch.zeros(toy_batch(5).num_impressions))
    data.val_dataloader = lambda: torch.utils.data.DataLoader([quiet], batch_size=None)
    with pytest.warns(UserWarning, match=r"val: auc, gauc, gauc_unweighted, calibration not defined \(nan\)"):
        trainer().validate(module, data, verbose=False)
    assert module.results["val"]["log_loss"] > 0
    trainer().validate(module, data, verbose=False)  # a second warning would be an error here


class _Wrong(nn.Module):
    """Gives something else in a component's place."""

    uses_target, out_dim = True, 3

    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, *of_batch):
        return self.given(*of_batch) if callable(self.given) else self.given


@pytest.mark.parametrize(
    ("place", "given", "says"),
    [
        ("interest", None, "an `Interest`, and returned a NoneType"),
        ("interest", Interest(torch.zeros(2, 4)), r"a tensor of shape \[\d+, 3\], and returned one of shape \[2, 4\]"),
        ("net", lambda *_: torch.zeros(5, 1), r"a tensor of shape \[\d+\], and returned one of shape \[5, 1\]"),
        ("user", lambda values: torch.zeros(len(values), 2), r"shape \[6, 3\], and returned one of shape \[6, 2\]"),
        ("history", lambda values: torch.zeros(6, 3), r"shape \[6, \d+, 3\], and returned one of shape \[6, 3\]"),
    ],
)
def test_what_a_component_returns_has_the_promised_shape(place, given, says):
    module, batch = toy_module(), toy_batch(6)
    if place == "net":
        module.net = _Wrong(given)
        where = "net"
    elif place == "interest":
        slot = next(iter(module.interest))
        module.interest[slot] = _Wrong(given)
        where = f"interest.{slot}"
    else:
        column = next(iter(module.encoders[place]))
        module.encoders[place][column] = _Wrong(given)
        where = f"features.{place}.{column.removesuffix('_of')}"
    with pytest.raises(TrainingError, match=f"{where}: `_Wrong` .*test_module.py.* should return .*{says}") as caught:
        module(batch)
    assert "test_module.py` runs the checks" in caught.value.todo


class _ReadsPadding(nn.Module):
    """The mean age of all slots, empty ones too."""

    uses_target = False

    def __init__(self, out_dim):
        super().__init__()
        self.out_dim = out_dim

    def forward(self, query, history, mask_BL, need_weights=False):
        return Interest(history["age"].mean(dim=1).expand(-1, self.out_dim))


def test_an_aggregator_that_reads_empty_slots_is_refused_in_the_first_step():
    module, batch = toy_module(), toy_batch(6)
    slot = next(iter(module.interest))
    module.interest[slot] = _ReadsPadding(module.interest[slot].out_dim)
    module.eval()
    module(batch)  # nothing is tried outside of training
    module.train()
    full = dataclasses.replace(batch, mask_GL=torch.ones_like(batch.mask_GL))
    module(full)  # no empty slot to try it with
    with pytest.raises(TrainingError, match=f"interest.{slot}: `_ReadsPadding` .* reads empty slots") as caught:
        module(batch)
    assert "Select by `mask_BL`" in caught.value.todo


def test_an_aggregator_is_not_blamed_for_bad_data():
    module, batch = toy_module(), toy_batch(6)
    module.train()
    age_GL = torch.where(batch.mask_GL, torch.nan, batch.age_GL)
    slot = next(iter(module.interest))
    module.interest[slot] = _ReadsPadding(module.interest[slot].out_dim)
    assert module(dataclasses.replace(batch, age_GL=age_GL)).logit_N.isnan().any()


def test_trying_an_aggregator_changes_nothing_and_happens_once(monkeypatch):
    module, batch = toy_module(), toy_batch(6)
    frozen = nn.Dropout().eval()
    next(iter(module.interest.values())).frozen = frozen
    calls, state = [], torch.get_rng_state()
    for aggregator in module.interest.values():
        aggregator.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    module.train()
    frozen.eval()
    module(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert not frozen.training
    assert all(each.training for each in module.interest.values())
    first = len(calls)
    module(batch)
    assert len(calls) - first == len(module.interest) == first / 3
    assert calls.count(True) == 2 * len(module.interest)
