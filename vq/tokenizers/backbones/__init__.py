"""Encoders and decoders: what stands before and after the quantizer of a tokenizer."""

from vq.tokenizers.backbones.base import BACKBONES, Backbone, make_backbone, register_backbone
from vq.tokenizers.backbones.conv2d import Conv2d
from vq.tokenizers.backbones.lapped import Lapped
from vq.tokenizers.backbones.seanet import SEANet
from vq.tokenizers.backbones.vit import ViT
from vq.tokenizers.backbones.vocos import Vocos

__all__ = [
    "BACKBONES",
    "Backbone",
    "Conv2d",
    "Lapped",
    "SEANet",
    "ViT",
    "Vocos",
    "make_backbone",
    "register_backbone",
]
