"""Shape and numerics of a Llama-architecture model, from a Hugging Face config.json or from GGUF metadata."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class UnsupportedModel(ValueError):
    """The checkpoint asks for something that is not implemented; the message names the field and its value."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding (arXiv:2104.09864), halves layout: dimension i turns with dimension i + dim / 2."""

    theta: float
    dim: int
    divisors: tuple[float, ...] | None = None
    """[dim / 2] what each frequency is divided by to reach longer contexts; None = 1."""

    def frequencies(self) -> list[float]:
        """[dim / 2] radians per position."""
        plain = [self.theta ** (-2 * i / self.dim) for i in range(self.dim // 2)]
        if self.divisors is None:
            return plain
        return [f / d for f, d in zip(plain, self.divisors, strict=True)]


_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """What the model code needs to know of a checkpoint."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    """Longest sequence, prompt and output together, in tokens."""
    tie_word_embeddings: bool
    """Whether the output matrix is the embedding matrix."""

    def __post_init__(self) -> None:
        for field in _SIZES:
            if getattr(self, field) < 1:
                raise UnsupportedModel(f"{field}={getattr(self, field)} must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise UnsupportedModel(f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}")
        if self.rope.dim != self.head_dim:
            raise UnsupportedModel(f"rope over {self.rope.dim} of {self.head_dim} head dimensions is not supported")


_HF_REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
}


def config_from_hf(raw: Mapping[str, Any]) -> LlamaConfig:
    """Read a config.json. Raises UnsupportedModel naming the field that is not supported."""
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method")
        raise UnsupportedModel(f"quantization_config.quant_method={method!r} is not supported: use unquantised weights")
    for field, allowed in _HF_REFUSED.items():
        value = raw.get(field, allowed[0])
        if value not in allowed:
            raise UnsupportedModel(f"{field}={value!r} is not supported: only {allowed[0]!r} is")
    try:
        heads = int(raw["num_attention_heads"])
        hidden = int(raw["hidden_size"])
        head_dim = int(raw.get("head_dim") or hidden // heads)
        context = int(raw["max_position_embeddings"])
        return LlamaConfig(
            vocab_size=int(raw["vocab_size"]),
            hidden_size=hidden,
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(raw.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            rms_norm_eps=float(raw["rms_norm_eps"]),
            rope=_rope_from_hf(raw, head_dim),
            max_position_embeddings=context,
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        )
    except UnsupportedModel:
        raise
    except KeyError as error:
        raise UnsupportedModel(f"config.json lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"config.json holds a value of the wrong kind: {error}") from error


def _rope_from_hf(raw: Mapping[str, Any], dim: int) -> RopeConfig:
    # Older files keep rope_theta beside rope_scaling; newer ones put both into rope_parameters.
    scaling: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return RopeConfig(theta, dim)
    if kind == "linear":
        return RopeConfig(theta, dim, (float(scaling["factor"]),) * (dim // 2))
    if kind == "llama3":
        return RopeConfig(theta, dim, _llama3_divisors(RopeConfig(theta, dim).frequencies(), scaling))
    raise UnsupportedModel(f"rope_type={kind!r} is not supported: only default, linear and llama3 are")


def _llama3_divisors(frequencies: list[float], scaling: Mapping[str, Any]) -> tuple[float, ...]:
    """Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between blended."""
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    context = float(scaling["original_max_position_embeddings"])
    divisors = []
    for frequency in frequencies:
        turns = context * frequency / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / factor + kept))
    return tuple(divisors)


def config_from_gguf(metadata: Mapping[str, Any], *, tied: bool, divisors: tuple[float, ...] | None) -> LlamaConfig:
    """Read the `llama.*` keys. `tied`: the file has no output matrix; `divisors`: its `rope_freqs.weight`, if any.

    Raises UnsupportedModel naming the architecture or the key that is not supported.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"general.architecture={architecture!r} is not supported: use a checkpoint with 'llama'")
    if metadata.get("llama.expert_count"):
        raise UnsupportedModel(
            f"llama.expert_count={metadata['llama.expert_count']!r} is not supported: use a dense model"
        )
    try:
        heads = int(metadata["llama.attention.head_count"])
        hidden = int(metadata["llama.embedding_length"])
        head_dim = int(metadata.get("llama.attention.key_length", hidden // heads))
        rope_dim = int(metadata.get("llama.rope.dimension_count", head_dim))
        theta = float(metadata.get("llama.rope.freq_base", 10000.0))
        vocab = metadata.get("llama.vocab_size")
        return LlamaConfig(
            vocab_size=int(vocab if vocab is not None else len(metadata["tokenizer.ggml.tokens"])),
            hidden_size=hidden,
            intermediate_size=int(metadata["llama.feed_forward_length"]),
            num_layers=int(metadata["llama.block_count"]),
            num_heads=heads,
            num_kv_heads=int(metadata.get("llama.attention.head_count_kv", heads)),
            head_dim=head_dim,
            rms_norm_eps=float(metadata["llama.attention.layer_norm_rms_epsilon"]),
            rope=RopeConfig(theta, rope_dim, divisors or _gguf_divisors(metadata, rope_dim)),
            max_position_embeddings=int(metadata["llama.context_length"]),
            tie_word_embeddings=tied,
        )
    except UnsupportedModel:
        raise
    except KeyError as error:
        raise UnsupportedModel(f"the GGUF metadata lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModel(f"the GGUF metadata holds a value of the wrong kind: {error}") from error


def _gguf_divisors(metadata: Mapping[str, Any], dim: int) -> tuple[float, ...] | None:
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return (float(metadata["llama.rope.scaling.factor"]),) * (dim // 2)
    raise UnsupportedModel(f"llama.rope.scaling.type={kind!r} is not supported: only none and linear are")
