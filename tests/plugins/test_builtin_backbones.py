"""Our backbone keeps what it promises, with a tiny model of timm."""

from dicm_kit.builtin import dicm_image_backbones
from dicm_kit.testing import BackboneContract


class TestTimm(BackboneContract):
    component = dicm_image_backbones()[0]
