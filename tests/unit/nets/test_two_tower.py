import dataclasses

import numpy as np
import pytest
import torch
from net_inputs import SHAPES, net_inputs, numpy_of

from dicm_kit.errors import FieldError
from dicm_kit.nets.two_tower import TwoTowerConfig, build_two_tower
from dicm_kit.types import Interest

OWN = dataclasses.replace(SHAPES, context={})


def net_of(**config):
    torch.manual_seed(1)
    return build_two_tower(TwoTowerConfig(**{"hidden": [6], "dim": 4, **config}), OWN)


def numpy_tower(weights, name, x):
    x = x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"]
    x = np.where(x > 0, x, weights[f"{name}.1.weight"] * x)
    return x @ weights[f"{name}_out.weight"].T + weights[f"{name}_out.bias"]


def test_equals_numpy():
    net = net_of(temperature=0.5)
    torch.nn.init.constant_(net.bias, -1.5)
    encoded, pictures, interest = net_inputs()
    weights = numpy_of(net)
    seen = [encoded.user["user_id"], interest["ids"].vector, interest["images"].vector]
    shown = [encoded.target["item_id"], encoded.target["tags"], pictures.target_NI]
    user, item = (
        numpy_tower(weights, name, torch.cat(vectors, 1).double().numpy())
        for name, vectors in (("user", seen), ("item", shown))
    )
    got_user, got_item = net.towers(encoded, pictures, interest)
    np.testing.assert_allclose(got_user.detach().numpy(), user, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got_item.detach().numpy(), item, rtol=1e-4, atol=1e-5)
    expected = np.einsum("nd,nd->n", user, item) / 0.5 - 1.5
    np.testing.assert_allclose(net(encoded, pictures, interest).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_towers_never_meet_before_the_product():
    net = net_of()
    encoded, pictures, interest = net_inputs()
    user, item = net.towers(encoded, pictures, interest)
    encoded.target["item_id"] += 1.0
    pictures.target_NI[:] += 1.0
    other_user, other_item = net.towers(encoded, pictures, interest)
    assert torch.equal(user, other_user)
    assert not torch.equal(item, other_item)
    encoded.user["user_id"] += 1.0
    interest["images"].vector[:] += 1.0
    last_user, last_item = net.towers(encoded, pictures, interest)
    assert torch.equal(other_item, last_item)
    assert not torch.equal(other_user, last_user)


def test_user_vectors_of_groups_repeated_give_the_logits_of_impressions():
    net, group_N = net_of(), torch.tensor([0, 0, 1, 1, 1])
    encoded, pictures, interest = net_inputs()
    groups = dataclasses.replace(encoded, user={name: each[:2] for name, each in encoded.user.items()})
    user_GD, item_ND = net.towers(
        groups, pictures, {slot: Interest(each.vector[:2]) for slot, each in interest.items()}
    )
    assert (user_GD.shape, item_ND.shape) == ((2, 4), (5, 4))
    repeated = dataclasses.replace(encoded, user={name: each[group_N] for name, each in encoded.user.items()})
    logit = net(repeated, pictures, {slot: Interest(each.vector[group_N]) for slot, each in interest.items()})
    torch.testing.assert_close(logit, (user_GD[group_N] * item_ND).sum(1) + net.bias)


def test_everything_is_trained_and_no_impressions_give_zeros():
    net = net_of()
    net(*net_inputs()).square().sum().backward()
    assert all(each.grad.abs().sum() > 0 for each in net.parameters())
    net.zero_grad()
    net(*net_inputs(0)).sum().backward()
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in net.parameters())


def test_bf16_and_state():
    net, other = net_of(), build_two_tower(TwoTowerConfig(hidden=[6], dim=4), OWN)
    other.load_state_dict(net.state_dict())
    exact = net(*net_inputs(200))
    assert torch.equal(other(*net_inputs(200)), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(*net_inputs(200))
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, atol=0.05)
    assert len(rough.unique()) > 190  # bf16 logits would tie


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"hidden": [0]}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"dim": 0}, "dim"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_refuses_values_out_of_range(config, field):
    with pytest.raises(FieldError) as caught:
        net_of(**config)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("nothing", "says"),
    [
        ({"user": {}, "interest": {}}, "the user's tower has nothing"),
        ({"target": {}, "image": None}, "the item's tower"),
    ],
)
def test_a_tower_needs_something_to_read(nothing, says):
    with pytest.raises(FieldError, match=says):
        build_two_tower(TwoTowerConfig(), dataclasses.replace(OWN, **nothing))
