"""The model: a decoder with multi-head latent attention and a mixture of experts."""

from lemmata.apps.language_model.model.attention import MultiHeadAttention, MultiHeadLatentAttention
from lemmata.apps.language_model.model.cache import DecoderCache, KeyValueCache, LatentCache
from lemmata.apps.language_model.model.config import DecoderConfig
from lemmata.apps.language_model.model.decoder import Decoder
from lemmata.apps.language_model.model.experts import MixtureOfExperts, SwiGLU
from lemmata.apps.language_model.model.generation import generate
from lemmata.apps.language_model.model.rotary import RotaryEmbedding

__all__ = [
    "Decoder",
    "DecoderCache",
    "DecoderConfig",
    "KeyValueCache",
    "LatentCache",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "MultiHeadLatentAttention",
    "RotaryEmbedding",
    "SwiGLU",
    "generate",
]
