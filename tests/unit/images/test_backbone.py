"""timm models read at any layer, frozen and trained, with weights that are what they should be."""

from pathlib import Path

import pytest
import timm
import torch
from pictures import image
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from dicm_kit.errors import FieldError, ImageError
from dicm_kit.images.backbone import TimmBackbone, TimmConfig, build_timm

WEIGHTS = Path(__file__).parents[4] / "shared" / "data" / "weights"


def small(**options) -> TimmBackbone:
    return TimmBackbone(**{"model": "test_resnet", "weights": "none", "image_size": 32} | options)


def pixels(backbone: TimmBackbone, count: int = 3) -> torch.Tensor:
    return torch.stack([backbone.transform(image(seed, (60, 40))) for seed in range(count)])


def test_pooled_is_what_the_classifier_gets() -> None:
    backbone = small()
    batch = pixels(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone.model.get_classifier()(backbone(batch)), backbone.model(batch))
    assert (backbone.out_dim, backbone.frozen) == (96, True)


def test_any_layer_averaged_over_space_and_nothing_after_it_is_run() -> None:
    backbone = small(layer="layer2")
    ran = []
    backbone.model.layer3.register_forward_pre_hook(lambda *_: ran.append("layer3"))
    batch = pixels(backbone)
    with torch.no_grad():
        stem = backbone.model.maxpool(backbone.model.act1(backbone.model.bn1(backbone.model.conv1(batch))))
        expected = backbone.model.layer2(backbone.model.layer1(stem)).mean((2, 3))
        torch.testing.assert_close(backbone(batch), expected)
    assert backbone.out_dim == 48
    assert not ran
    assert not backbone.model.layer2._forward_hooks


def test_tokens_are_averaged() -> None:
    backbone = small(model="test_vit", layer="blocks.2", image_size=160)
    batch = pixels(backbone)
    seen = []
    backbone.model.blocks[2].register_forward_hook(lambda module, inputs, output: seen.append(output.mean(1)))
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch), seen[0])


def test_vgg16_at_fc6_gives_the_papers_4096_values() -> None:
    """FC6 after its ReLU, which works in place: neither that nor what follows may change what is handed out."""
    backbone = small(model="vgg16", layer="pre_logits.fc1", arguments={"num_classes": 1})
    assert backbone.out_dim == 4096
    assert backbone.model.pre_logits.act1.inplace
    batch = pixels(backbone)
    with torch.inference_mode():
        pooled = nn.functional.adaptive_avg_pool2d(backbone.model.features(batch), 7)
        expected = backbone.model.pre_logits.fc1(pooled).flatten(1)
        before_relu = backbone(batch)
        backbone.layer = "pre_logits.act1"
        after_relu = backbone(batch)
        backbone.model(batch)
    torch.testing.assert_close(before_relu, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after_relu, expected.relu(), rtol=1e-4, atol=1e-4)
    assert (before_relu < 0).any()


def test_a_vector_does_not_depend_on_the_other_pictures() -> None:
    backbone = small(trainable="all").train()
    batch = pixels(backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone(batch)[1:2], backbone(batch[1:2]), rtol=1e-4, atol=1e-6)


def test_the_transform_is_timms() -> None:
    backbone = small(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])
    config = timm.data.resolve_model_data_config(backbone.model)
    config |= {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    picture = image(7, (60, 40))
    theirs = timm.data.create_transform(**config, is_training=False)(picture)
    ours = backbone.transform(picture)
    assert ours.shape == (3, 32, 32)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    white = TimmBackbone("test_resnet", "none", image_size=32, mean=[0.5] * 3, std=[0.5] * 3)
    assert white.transform(Image.new("RGB", (9, 9), "white")).allclose(torch.ones(3, 32, 32), atol=1e-6)


def test_random_weights_are_drawn_by_the_seed_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = small(seed=1)
    assert torch.equal(torch.rand(3), expected)
    again, other = small(seed=1), small(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_fingerprint_changes_with_all_that_changes_vectors() -> None:
    variants = [{}, {"layer": "layer2"}, {"image_size": 64}, {"mean": [0.1, 0.2, 0.3]}, {"seed": 1}]
    prints = {small(**variant).fingerprint for variant in variants}
    assert len(prints) == len(variants)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in prints)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped.pth"])
def test_weights_from_a_file(tmp_path: Path, kind: str) -> None:
    source = small(seed=3)
    state, path = source.model.state_dict(), tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save({"state_dict": state} if "wrapped" in kind else state, path)
    loaded = small(weights=str(path))
    assert loaded.fingerprint == source.fingerprint


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = small().model.state_dict()
    state["extra.weight"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(7)
    for name in [name for name in state if name.startswith("layer1")]:
        del state[name]
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(FieldError) as caught:
        small(weights=str(tmp_path / "bad.pth"))
    text = str(caught.value)
    assert "missing: layer1.0.conv1.weight" in text
    assert "and 7 more" in text
    assert "unexpected: extra.weight" in text
    assert "of another shape: fc.bias" in text


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="no such file"):
        small(weights=str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(FieldError, match="cannot be read as weights"):
        small(weights=str(tmp_path / "text.pth"))
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "pickled.pth")  # a pickled class could run code
    with pytest.raises(FieldError, match="cannot be read as weights"):
        small(weights=str(tmp_path / "pickled.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(FieldError, match="holds no dictionary of tensors"):
        small(weights=str(tmp_path / "list.pth"))


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ImageError, match="cannot get the weights of `test_resnet`: no network"):
        TimmBackbone("test_resnet")


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"model": "resnet10"}, "model", "Did you mean `resnet10t`"),
        ({"layer": "layer2.con"}, "layer", "Did you mean"),
        ({"layer": "xyz"}, "layer", "For example: pooled, conv1"),
        ({"layer": ""}, "layer", "no layer"),
        ({"arguments": {"nonsense": 1}}, "arguments", "nonsense"),
        ({"model": "swin_tiny_patch4_window7_224"}, "image_size", "32 x 32"),
        ({"layer": "conv1", "trainable": "last_block", "model": "test_resnet"}, "trainable", "no stage"),
        ({"layer": "fc_norm", "model": "test_vit", "image_size": 160, "trainable": "none"}, "", ""),
    ],
)
def test_wrong_options_name_their_field(options: dict, field: str, text: str) -> None:
    if not field:
        assert small(**options).out_dim == 64
        return
    with pytest.raises(FieldError, match=text) as caught:
        small(**options)
    assert caught.value.field == field


def test_a_recipe_section_becomes_a_backbone() -> None:
    backbone = build_timm(TimmConfig(model="test_resnet", weights="none", layer="layer2", image_size=32))
    assert (backbone.out_dim, backbone.frozen) == (48, True)
    with pytest.raises(FieldError, match="three values"):
        build_timm(TimmConfig(model="test_resnet", weights="none", mean=[0.5]))


def trained(backbone: TimmBackbone) -> set[str]:
    return {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}


def test_what_is_trained() -> None:
    assert trained(small()) == set()
    assert trained(small(trainable="last_block")) == {n for n in all_names(small()) if n.startswith("layer4.")}
    assert trained(small(trainable="last_block", layer="layer3.0.conv2")) == {
        "layer3.0.conv1.weight",
        "layer3.0.bn1.weight",
        "layer3.0.bn1.bias",
        "layer3.0.conv2.weight",
    }
    assert trained(small(trainable="all")) == {n for n in all_names(small()) if not n.startswith("fc.")}
    vit = small(model="test_vit", image_size=160, trainable="last_block")
    assert {name.rsplit(".", 1)[0] for name in trained(vit)} >= {"norm", "blocks.5.norm1"}
    assert all(name.startswith(("norm.", "blocks.5.")) for name in trained(vit))
    assert {"pos_embed", "cls_token"} <= trained(small(model="test_vit", image_size=160, trainable="all"))


def all_names(backbone: TimmBackbone) -> set[str]:
    return {name for name, _ in backbone.model.named_parameters()}


def test_batchnorm_keeps_its_statistics_and_trains_its_scale() -> None:
    backbone = small(trainable="all").train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(pixels(backbone)).square().sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert backbone.model.training
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert backbone.model.layer4[0].bn2.weight.grad.abs().sum() > 0
    frozen = small().train()
    assert not any(module.training for module in frozen.modules())


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the real weights are not at hand")
def test_real_weights_know_real_photos() -> None:
    backbone = TimmBackbone(
        "mobilenetv2_100",
        str(WEIGHTS / "mobilenetv2_100_tf_same.timm.pth"),
        mean=[0.5] * 3,
        std=[0.5] * 3,
        arguments={"pad_type": "same"},
    )
    assert backbone.out_dim == 1280
    labels = (WEIGHTS / "imagenet_labels.txt").read_text().splitlines()[1:]  # the first one is "background"
    photos = sorted((WEIGHTS / "sample_photos").iterdir())
    assert [photo.stem for photo in photos] == ["bird", "cat", "dragonfly", "hot_dog", "parrot"]
    batch = []
    for photo in photos:
        with Image.open(photo) as picture:
            batch.append(backbone.transform(picture.convert("RGB")))
    with torch.inference_mode():
        best = backbone.model.get_classifier()(backbone(torch.stack(batch))).argmax(1)
    names = [labels[number].partition(",")[0] for number in best.tolist()]
    assert names == ["chickadee", "Egyptian cat", "dragonfly", "hotdog", "macaw"]
