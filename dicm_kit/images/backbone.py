"""Pixels -> vectors: any timm model, read at any layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dicm_kit.errors import FieldError, ImageError, did_you_mean, some
from dicm_kit.interfaces import ImageBackbone

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class TimmConfig:
    """Any model of timm, read at any layer; frozen, or trained with the rest."""

    model: str
    """timm's name of it: `vgg16.tv_in1k`, `resnet10t`."""
    weights: str = "pretrained"
    """`pretrained` (downloaded by timm), `none` (random, by `seed`), or a file: .safetensors, .pt, .pth."""
    layer: str = "pooled"
    """`pooled` (what the classifier would get), or a module's path such as `pre_logits.act1`; space is averaged."""
    trainable: Literal["none", "last_block", "all"] = "none"
    """`none`: vectors are made once, before training. Else pictures pass through the model in every step."""
    image_size: int | None = None
    """Height and width of the pixels; null: the model's own."""
    mean: list[float] | None = None
    """Subtracted from the pixels (0 to 1), per colour; null: the model's own."""
    std: list[float] | None = None
    """Divides the pixels afterwards, per colour; null: the model's own."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """More arguments of `timm.create_model`, such as `{pad_type: same}` or `{num_classes: 10}`."""
    seed: int = 0
    """Draws the weights of `weights: none`."""


class TimmBackbone(ImageBackbone):
    """A timm model up to a layer. Later layers are not run.

    BatchNorm always uses its running statistics, in training too: a picture's vector must not depend on the other
    pictures of the step. Its scale and shift are trained like any weight, since timm starts the last scale of every
    residual block at zero and a block would otherwise never come alive.
    """

    def __init__(
        self,
        model: str,
        weights: str = "pretrained",
        layer: str = "pooled",
        trainable: Literal["none", "last_block", "all"] = "none",
        image_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        arguments: dict[str, Any] | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = _create(model, weights, arguments or {}, seed).to(memory_format=torch.channels_last).eval()
        self.layer, self.frozen = layer, trainable == "none"
        self._data = _data_config(self.model, image_size, mean, std)
        self._crop: Any = None
        if layer != "pooled":
            _find(self.model, layer)
        self.out_dim = self._probe()
        description = {
            "model": model,
            "arguments": arguments or {},
            "layer": layer,
            "transform": {name: str(value) for name, value in sorted(self._data.items())},
        }
        self.fingerprint = _fingerprint(description, self.model)
        chosen = set() if self.frozen else _trained(self.model, self._run, self._blank(), trainable == "last_block")
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter in chosen)
        self.train(self.training)

    def transform(self, image: "Image") -> Tensor:
        """Returns pixels [3, H, W] as the model's own evaluation transform makes them: resize, crop, scale."""
        if self._crop is None:
            from timm.data import create_transform

            self._crop = create_transform(**self._data, is_training=False, normalize=False)
        # numpy and not torch: torch would start a team of threads for each thread that decodes pictures
        pixels_HW3 = self._crop(image).permute(1, 2, 0).numpy().astype(np.float32)
        std = np.asarray(self._data["std"], dtype=np.float32)
        pixels_HW3 *= 1 / (255 * std)
        pixels_HW3 -= np.asarray(self._data["mean"], dtype=np.float32) / std
        return torch.from_numpy(pixels_HW3).permute(2, 0, 1)

    def forward(self, pixels_U3HW: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U C"]:
        """Returns the layer's activations [U, C], averaged over space (or tokens) where they have any."""
        output = self._run(pixels_U3HW.contiguous(memory_format=torch.channels_last))
        if output.ndim == 4:
            return output.mean(dim=(1, 2) if _is_channels_last(self.model) else (2, 3))
        return output.mean(dim=1) if output.ndim == 3 else output

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Switches dropout of a trained model; BatchNorm and frozen models stay as in evaluation."""
        super().train(mode and not self.frozen)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _run(self, pixels_U3HW: Tensor) -> Tensor:
        if self.layer == "pooled":
            model: Any = self.model
            return model.forward_head(model.forward_features(pixels_U3HW), pre_logits=True)
        with _stop_after(self.model.get_submodule(self.layer)):
            try:
                self.model(pixels_U3HW)
            except _Reached as reached:
                return reached.output
        raise FieldError("layer", f"the model never runs `{self.layer}`", todo="Name a layer that it runs.")

    def _blank(self) -> Tensor:
        return torch.zeros(1, *self._data["input_size"])

    def _probe(self) -> int:
        """Returns C, found by running one blank picture."""
        try:
            with torch.inference_mode():
                output = self(self._blank())
        except FieldError:
            raise
        except Exception as error:  # whatever the model's own code raises for a size that it cannot take
            size = self._data["input_size"][-1]
            todo = "Leave image_size out, or tell the model as well: `arguments: {img_size: ...}`."
            raise FieldError(
                "image_size", f"the model cannot take {size} x {size} pixels: {error}", todo=todo
            ) from error
        if output.ndim != 2:
            raise FieldError("layer", f"`{self.layer}` gives {list(output.shape)} for one picture, not a vector")
        return output.shape[1]


def build_timm(config: TimmConfig, shapes: None = None) -> TimmBackbone:
    """Returns the backbone of a recipe's `backbone` section."""
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != 3:
            raise FieldError(name, f"needs three values, one per colour, not {len(values)}")
    return TimmBackbone(
        model=config.model,
        weights=config.weights,
        layer=config.layer,
        trainable=config.trainable,
        image_size=config.image_size,
        mean=None if config.mean is None else list(config.mean),
        std=None if config.std is None else list(config.std),
        arguments=dict(config.arguments),
        seed=config.seed,
    )


# --- making the model ---


def _create(name: str, weights: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise FieldError("model", f"timm has no model `{name}`", todo=did_you_mean(name, known))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=weights == "pretrained", **arguments)
        except TypeError as error:
            raise FieldError("arguments", f"`{name}` does not take them: {error}") from error
        except Exception as error:
            if weights != "pretrained":
                raise FieldError("model", f"timm cannot make `{name}`: {error}") from error
            todo = "Check the network, or name a file with `weights: <file>`; `weights: none` needs neither."
            raise ImageError(f"cannot get the weights of `{name}`: {error}", todo=todo) from error
    if weights not in ("pretrained", "none"):
        _load(model, Path(weights), name)
    return model


def _load(model: nn.Module, path: Path, name: str) -> None:
    """Loads weights from a file; reads no pickled code, and wants every tensor in its place."""
    if not path.is_file():
        raise FieldError("weights", f"no such file: {path}", todo="Write `pretrained`, `none` or a file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FieldError("weights", f"{path} cannot be read as weights: {error}") from error
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    wanted = model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise FieldError("weights", f"{path} holds no dictionary of tensors")
    problems = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [key for key in wanted if key in state and wanted[key].shape != state[key].shape],
    }
    if any(problems.values()):
        text = "; ".join(f"{what}: {some(keys)}" for what, keys in problems.items() if keys)
        raise FieldError("weights", f"{path} does not fit `{name}`; {text}", todo="See `model` and `arguments`.")
    model.load_state_dict(state)


def _data_config(
    model: nn.Module, image_size: int | None, mean: list[float] | None, std: list[float] | None
) -> dict[str, Any]:
    from timm.data import resolve_model_data_config

    data: dict[str, Any] = resolve_model_data_config(model)
    if image_size is not None:
        data["input_size"] = (3, image_size, image_size)
    data["mean"] = tuple(data["mean"] if mean is None else mean)
    data["std"] = tuple(data["std"] if std is None else std)
    return data


def _fingerprint(description: dict[str, Any], model: nn.Module) -> str:
    digest = sha256(dumps(description, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


# --- reading a layer ---


class _Reached(Exception):  # noqa: N818 - no error: it carries the layer's output out of the forward
    def __init__(self, output: Tensor):
        self.output = output
        super().__init__("the layer was reached")


@contextmanager
def _stop_after(module: nn.Module) -> Iterator[None]:
    """Makes `module` end the forward by raising its output."""

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise FieldError("layer", f"it gives a {type(output).__name__}, not a tensor")
        raise _Reached(output.clone())  # a copy: the next layer may work in place on what others still hold

    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def _find(model: nn.Module, layer: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not layer or layer not in modules:
        todo = (
            did_you_mean(layer, ["pooled", *modules])
            or f"For example: pooled, {some(name for name in modules if name)}."
        )
        raise FieldError("layer", f"the model has no layer `{layer}`", todo=todo)
    return modules[layer]


def _is_channels_last(model: nn.Module) -> bool:
    return str(getattr(getattr(model, "output_fmt", "NCHW"), "value", getattr(model, "output_fmt", "NCHW"))) == "NHWC"


def _trained(model: nn.Module, run: Callable[[Tensor], Tensor], pixels: Tensor, last_block: bool) -> set[nn.Parameter]:
    """Returns the parameters that run before the layer; with `last_block` those of the last stage and what follows it.

    Stages are timm's `feature_info`, where a model lists the ends of its resolutions: `layer4` of a ResNet, the last
    block of a ViT with the norm behind it, `conv5_*` and FC6 of VGG16 read at `pre_logits.act1`.
    """
    ends = {info["module"] for info in getattr(model, "feature_info", None) or [] if isinstance(info, dict)}
    # parameters in the order of their first use, cut where a stage ends; the model's own (a ViT's positions) are first
    stages: list[list[nn.Parameter]] = [list(model.parameters(recurse=False))]
    ended = set()

    def note_start(module: nn.Module, inputs: Any) -> None:
        if module is not model:
            stages[-1].extend(module.parameters(recurse=False))

    def note_end(module: nn.Module, inputs: Any, output: Any) -> None:
        ended.add(names[module])
        if stages[-1]:  # else the stage before ended here too, as at the two ends of VGG's last pooling
            stages.append([])

    names = {module: name for name, module in model.named_modules()}
    handles = [module.register_forward_pre_hook(note_start) for module in names]
    handles += [module.register_forward_hook(note_end) for module, name in names.items() if name in ends]
    try:
        with torch.inference_mode():
            run(pixels)
    finally:
        for handle in handles:
            handle.remove()
    if not last_block:
        return {parameter for stage in stages for parameter in stage}
    if not ended:
        raise FieldError("trainable", "timm lists no stage before this layer", todo="Write `none` or `all`.")
    tail = stages.pop()
    if tail and ends - ended:  # the layer lies inside a stage: the last block is what runs of that
        return set(tail)
    return {*stages[-1], *tail}
