"""The embedder's layers, and what standardizing does."""

import torch

from dicm_kit.images.embedder import Embedder, Standardize


def test_layers_are_the_papers():
    embedder = Embedder(4096)
    widths = [(layer.in_features, layer.out_features) for layer in embedder if isinstance(layer, torch.nn.Linear)]
    assert widths == [(4096, 256), (256, 64), (64, 12)]


def test_standardize_gives_mean_0_and_deviation_1():
    vectors_VC = torch.randn(500, 3) * torch.tensor([1.0, 10.0, 0.01]) + torch.tensor([5.0, -2.0, 0.3])
    standardize = Standardize(3)
    assert torch.equal(standardize(vectors_VC), vectors_VC)
    standardize.set(vectors_VC.mean(0), vectors_VC.std(0, correction=0))
    out_VC = standardize(vectors_VC)
    torch.testing.assert_close(out_VC.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out_VC.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_dimension_that_never_changes_becomes_0():
    standardize = Standardize(2)
    standardize.set(torch.tensor([3.0, 3.0]), torch.tensor([0.0, 1.0]))
    assert torch.equal(standardize(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.0, 1.0]]))


def test_statistics_travel_with_the_weights():
    first, second = Embedder(3, standardize=True), Embedder(3, standardize=True)
    assert isinstance(first[0], Standardize)
    first[0].set(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    second.load_state_dict(first.state_dict())
    vectors_VC = torch.randn(4, 3)
    assert torch.equal(first(vectors_VC), second(vectors_VC))
