import numpy as np
import torch
from net_inputs import SHAPES, net_inputs, numpy_of

from dicm_kit.nets.lr import LrConfig, build_lr


def test_equals_numpy():
    net = build_lr(LrConfig(), SHAPES)
    encoded, pictures, interest = net_inputs()
    x = np.concatenate(
        [
            each.double().numpy()
            for each in (
                encoded.user["user_id"],
                encoded.target["item_id"],
                encoded.target["tags"],
                encoded.context["hour"],
                pictures.target_NI,
                interest["ids"].vector,
                interest["images"].vector,
            )
        ],
        axis=1,
    )
    weights = numpy_of(net)
    expected = x @ weights["logit.weight"][0] + weights["logit.bias"]
    np.testing.assert_allclose(net(encoded, pictures, interest).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_one_input_adds_does_not_depend_on_another():
    net = build_lr(LrConfig(), SHAPES)
    added = []
    for shift in (0.0, 5.0):
        encoded, pictures, interest = net_inputs()
        encoded.user["user_id"] += shift
        before = net(encoded, pictures, interest)
        pictures.target_NI[:] += 1.0
        added.append(net(encoded, pictures, interest) - before)
    assert added[0].abs().min() > 0
    torch.testing.assert_close(added[0], added[1], rtol=1e-4, atol=1e-5)


def test_without_pictures():
    shapes = SHAPES.__class__(**{**SHAPES.__dict__, "image": None, "interest": {"ids": 3}})
    encoded, _, interest = net_inputs()
    assert build_lr(LrConfig(), shapes)(encoded, None, interest).shape == (5,)


def test_bf16_state_and_no_impressions():
    net, other = build_lr(LrConfig(), SHAPES), build_lr(LrConfig(), SHAPES)
    other.load_state_dict(net.state_dict())
    exact = net(*net_inputs())
    assert torch.equal(other(*net_inputs()), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(*net_inputs())
    assert rough.dtype == torch.float32
    assert torch.allclose(exact, rough, atol=0.05)
    net(*net_inputs(0)).sum().backward()
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in net.parameters())
