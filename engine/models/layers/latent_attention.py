"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) over a paged cache of latents.

Rows of one token attend in the absorbed form: queries go into the space of the latent, which serves all heads. Longer
rows expand the latents to keys and values of each head, those of the cached prefix a chunk at a time; if heads have a
size that no kernel takes, they attend in the absorbed form too, each token as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ....kernels import mla_decode, mla_prefill_chunks, plan_mla_decode, rms_norm, rotary, write_kv
from ....kernels.mla_prefill import NOPE_DIM, ROPE_DIM, VALUE_DIM
from ..model import DecodePlan, StepInputs
from .linear import Linear
from .module import Parts, Step
from .rope import Rotary

PREFIX_TOKENS = 8192
"""Cached tokens whose keys and values are expanded at a time, over all rows of a step."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Sizes and numerics that the weights do not say."""

    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    scale: float
    table: Rotary
    interleaved: bool = True
    """Whether the checkpoint's rotary values are pairs of neighbours; they are brought into halves when read."""
    norm_eps: float = 1e-6
    """Of the norms of the latents, whatever the model's other norms use."""


@dataclass(frozen=True, slots=True)
class _Decode:
    """Rows of one token each."""

    tokens: torch.Tensor | None
    """int64 [rows] which of the step's tokens they are; None: all."""
    row_tokens: int
    block_table: torch.Tensor
    context_lens: torch.Tensor
    plan: DecodePlan | None


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Longer rows."""

    tokens: torch.Tensor | None
    starts: torch.Tensor
    """int32 [rows + 1] where each row begins among these tokens."""
    longest: int
    prefix: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    """For each chunk of the cached prefixes the slots of its tokens, int64, and where each row begins among them."""


class LatentAttention:
    """This rank's heads. The latents are the same on every rank of an attention group."""

    def __init__(self, parts: Parts, config: Latent) -> None:
        c = self._config = config
        self._layer = parts.layer
        self._heads = len(parts.ranges("kv_b_proj.weight")[0]) // (c.nope_dim + c.v_dim)
        query = parts.read("q_b_proj.weight" if parts.has("q_b_proj.weight") else "q_proj.weight")
        query = _halves(query.view(self._heads, -1, query.shape[1]), c).flatten(0, 1)
        latent = _halves(parts.read("kv_a_proj_with_mqa.weight")[None], c)[0]
        if parts.has("q_b_proj.weight"):
            self._q_rank = parts.weight("q_b_proj.weight").shape[1]
            self._down = Linear(torch.cat([parts.read("q_a_proj.weight"), latent]))
            self._q_norm = parts.read("q_a_layernorm.weight")
            self._up: Linear | None = Linear(query)
        else:  # the queries come from the rows themselves
            self._q_rank = len(query)
            self._down, self._up = Linear(torch.cat([query, latent])), None
        self._kv_norm = parts.read("kv_a_layernorm.weight")
        expand = parts.read("kv_b_proj.weight")
        self._expand = Linear(expand)
        both = expand.view(self._heads, c.nope_dim + c.v_dim, c.kv_rank)
        self._w_keys = both[:, : c.nope_dim].contiguous()
        self._w_values = both[:, c.nope_dim :].transpose(1, 2).contiguous()
        self._o = Linear(parts.read("o_proj.weight"))

    def plan_decode(self, context_lens: torch.Tensor, *, row_tokens: int, max_context: int) -> DecodePlan | None:
        """See `Model.plan_decode`; the same for all layers. The CPU's kernel has no use for one."""
        if context_lens.device.type == "cpu":
            return None
        return plan_mla_decode(context_lens, q_len=row_tokens, heads=self._heads, max_context=max_context)

    def __call__(self, x: torch.Tensor, step: Step) -> torch.Tensor:
        """Attention of all tokens of the step, which are in the order of their requests."""
        c, inputs, cache = self._config, step.inputs, step.cache.layers[self._layer]["latent"]
        q, compressed = self._down(x).split([self._q_rank, c.kv_rank + c.rope_dim], dim=1)
        if self._up is not None:
            q = self._up(rms_norm(q.contiguous(), self._q_norm, eps=c.norm_eps)[0])
        q = q.reshape(len(x), self._heads, c.nope_dim + c.rope_dim)
        latent, key = compressed.split([c.kv_rank, c.rope_dim], dim=1)
        latent, _ = rms_norm(latent.contiguous(), self._kv_norm, eps=c.norm_eps)
        cos, sin = c.table.at(inputs)
        q_rope = rotary(q[..., c.nope_dim :].contiguous(), cos, sin)
        row = torch.cat([latent, rotary(key[:, None].contiguous(), cos, sin)[:, 0]], dim=1)
        _write(row, cache, inputs.slot_mapping)

        decode, prefill = inputs.once("latent attention", lambda: self._divide(inputs, cache.shape[1]))
        out = x.new_empty(len(x), self._heads, c.v_dim)
        if decode is not None:
            _put(out, decode.tokens, self._decode(_take(q, decode.tokens), _take(q_rope, decode.tokens), cache, decode))
        if prefill is not None:
            q = torch.cat([q[..., : c.nope_dim], q_rope], dim=-1)
            part = self._prefill(_take(q, prefill.tokens), _take(row, prefill.tokens), cache, prefill)
            _put(out, prefill.tokens, part)
        return self._o(out.flatten(1))

    def _decode(self, q: torch.Tensor, q_rope: torch.Tensor, cache: torch.Tensor, rows: _Decode) -> torch.Tensor:
        """[tokens, heads, v_dim], in the space of the latent until the end."""
        c = self._config
        absorbed = torch.bmm(q[..., : c.nope_dim].transpose(0, 1), self._w_keys).transpose(0, 1)
        queries = torch.cat([absorbed, q_rope], dim=-1).view(-1, rows.row_tokens, self._heads, c.kv_rank + c.rope_dim)
        attended, _ = mla_decode(
            queries,
            cache,
            rows.block_table,
            rows.context_lens,
            scale=c.scale,
            plan=rows.plan,  # type: ignore[arg-type]
        )
        return torch.bmm(attended.flatten(0, 1).transpose(0, 1), self._w_values).transpose(0, 1)

    def _prefill(self, q: torch.Tensor, row: torch.Tensor, cache: torch.Tensor, rows: _Prefill) -> torch.Tensor:
        """[tokens, heads, v_dim], over the new tokens and over the prefix in chunks."""
        flat = cache.flatten(0, 1)

        def prefix() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for slots, starts in rows.prefix:
                yield (*self._keys_and_values(flat[slots]), starts)

        k, v = self._keys_and_values(row)
        out, _ = mla_prefill_chunks(
            q.contiguous(), k, v, rows.starts, rows.starts, prefix(), scale=self._config.scale, max_queries=rows.longest
        )
        return out

    def _keys_and_values(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From what is cached, [tokens, kv_rank + rope_dim], the keys and values of this rank's heads."""
        c = self._config
        latent, key = row.split([c.kv_rank, c.rope_dim], dim=1)
        both = self._expand(latent.contiguous()).view(len(row), self._heads, c.nope_dim + c.v_dim)
        keys = torch.cat([both[..., : c.nope_dim], key[:, None].expand(-1, self._heads, -1)], dim=-1)
        return keys, both[..., c.nope_dim :].contiguous()

    def _divide(self, inputs: StepInputs, block_size: int) -> tuple[_Decode | None, _Prefill | None]:
        """Which rows decode, and where the prefixes of the others are. Once a step."""
        if inputs.row_tokens is not None:
            return _Decode(None, inputs.row_tokens, inputs.block_table, inputs.context_lens, inputs.decode_plan), None
        c, lengths = self._config, inputs.lengths
        if lengths is None:
            raise ValueError("a step whose rows differ needs StepInputs.lengths")
        queries, contexts = lengths.queries.astype(np.int64), lengths.contexts.astype(np.int64)
        single, longer = np.flatnonzero(queries == 1), np.flatnonzero(queries > 1)
        device = inputs.positions.device
        if len(longer) and (c.nope_dim, c.rope_dim, c.v_dim) != (NOPE_DIM, ROPE_DIM, VALUE_DIM):
            rows = torch.from_numpy(np.repeat(np.arange(len(queries)), queries)).to(device)
            context_lens = (inputs.positions + 1).int()
            plan = self.plan_decode(context_lens, row_tokens=1, max_context=int(contexts.max()))
            return _Decode(None, 1, inputs.block_table[rows], context_lens, plan), None
        decode = None
        if len(single):
            index = torch.from_numpy(single).to(device)
            context_lens = inputs.context_lens[index]
            plan = self.plan_decode(context_lens, row_tokens=1, max_context=int(contexts[single].max()))
            first = torch.from_numpy(np.cumsum(queries)[single] - 1).to(device)
            tokens = first if len(longer) else None
            decode = _Decode(tokens, 1, inputs.block_table[index], context_lens, plan)
        if not len(longer):
            return decode, None
        begin = np.cumsum(queries) - queries
        tokens = None
        if len(single):
            tokens = torch.from_numpy(_ranges(begin[longer], queries[longer])).to(device)
        prefill = _Prefill(
            tokens,
            _starts(queries[longer], device),
            int(queries[longer].max()),
            tuple(_prefix_chunks(inputs.block_table, longer, contexts[longer] - queries[longer], block_size)),
        )
        return decode, prefill


def _prefix_chunks(
    table: torch.Tensor, rows: NDArray[np.int64], prefixes: NDArray[np.int64], block_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cuts the prefixes of rows (`prefixes`: tokens of each) so that no chunk has more than PREFIX_TOKENS tokens."""
    length = max(1, PREFIX_TOKENS // len(rows))
    for start in range(0, int(prefixes.max()), length):
        counts = np.clip(prefixes - start, 0, length)
        positions = torch.from_numpy(_ranges(np.full(len(rows), start), counts)).to(table.device)
        row = torch.from_numpy(np.repeat(rows, counts)).to(table.device)
        slots = table[row, positions // block_size].long() * block_size + positions % block_size
        yield slots, _starts(counts, table.device)


def _ranges(begin: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """begin[0], begin[0] + 1, ... for counts[0] numbers, then those of the next, int64."""
    ends = np.cumsum(counts)
    found: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0, dtype=np.int64)
    found += np.repeat(begin - (ends - counts), counts)
    return found


def _starts(counts: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    starts = np.zeros(len(counts) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    return torch.from_numpy(starts).to(device)


def _take(x: torch.Tensor, tokens: torch.Tensor | None) -> torch.Tensor:
    return x if tokens is None else x[tokens]


def _put(out: torch.Tensor, tokens: torch.Tensor | None, part: torch.Tensor) -> None:
    if tokens is None:
        out.copy_(part)
    else:
        out[tokens] = part


def _write(row: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> None:
    """Store the tokens' rows. `write_kv` stores two tensors of one shape: the halves of a row."""
    half = row.shape[1] // 2
    write_kv(row[:, None, :half], row[:, None, half:], cache[:, :, None, :half], cache[:, :, None, half:], slots)


def _halves(weight: torch.Tensor, c: Latent) -> torch.Tensor:
    """[heads, out, in] with the last `rope_dim` outputs of every head in the order that `rotary` turns."""
    if not c.interleaved:
        return weight
    kept, turned = weight[:, : -c.rope_dim], weight[:, -c.rope_dim :]
    return torch.cat([kept, turned[:, ::2], turned[:, 1::2]], dim=1)
