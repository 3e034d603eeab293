"""What both divisions of MLA decode in plain Triton share: attention of a tile of queries over a range of a context."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _attend_tile(
    q_latent: tl.tensor,
    q_rope: tl.tensor,
    kv_latent: tl.tensor,
    k_rope: tl.tensor,
    position: tl.tensor,
    visible: tl.tensor,
    scale_log2: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    weighted: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One step of online softmax: the new largest score, sum of weights and weighted values."""
    scores = tl.dot(q_latent, tl.trans(kv_latent))
    scores = tl.dot(q_rope, tl.trans(k_rope), scores)
    scores = tl.where(position[None, :] < visible[:, None], scores * scale_log2, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    # A query that has seen nothing yet has largest -inf, and -inf - -inf is not a number.
    shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(scores - shift[:, None])
    decay = tl.exp2(largest - shift)
    total = total * decay + tl.sum(weights, 1)
    weighted = tl.dot(weights.to(kv_latent.dtype), kv_latent, weighted * decay[:, None])
    return new_largest, total, weighted


@triton.jit  # type: ignore[untyped-decorator]
def attend_range(
    q_ptr: tl.tensor,
    kv_ptr: tl.tensor,
    latent_desc: tl.tensor,
    rope_desc: tl.tensor,
    table_row: tl.tensor,
    row: tl.tensor,
    query: tl.tensor,
    context: tl.tensor,
    first_token: tl.tensor,
    last_token: tl.tensor,
    scale_log2: tl.tensor,
    cache_scale: tl.tensor,
    block_stride: tl.tensor,
    token_stride: tl.tensor,
    heads: tl.tensor,
    q_len: tl.tensor,
    LATENT: tl.constexpr,
    ROPE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Results [queries, LATENT] and log-sum-exp [queries] of a row's queries over tokens first_token to last_token.

    first_token is a multiple of 64 and, if TMA, of KEYS; what lies behind the context is not read. Queries that see no
    key have result 0 and lse -inf. Parameters as in the kernels that call it.
    """
    queries = q_len * heads
    is_query = query < queries
    latent = tl.arange(0, LATENT)
    rope = LATENT + tl.arange(0, ROPE)
    # 64-bit offsets: workspaces of large batches and pools exceed 2**31 elements.
    q_row = q_ptr + (row.to(tl.int64) * queries + query)[:, None] * (LATENT + ROPE)
    q_latent = tl.load(q_row + latent[None, :], mask=is_query[:, None], other=0.0)
    q_rope = tl.load(q_row + rope[None, :], mask=is_query[:, None], other=0.0)
    # An 8-bit cache is multiplied in float16, to which its values convert exactly and in one instruction.
    EIGHT_BITS: tl.constexpr = kv_ptr.dtype.element_ty == tl.float8e4nv
    if EIGHT_BITS:
        q_latent = q_latent.to(tl.float16)
        q_rope = q_rope.to(tl.float16)
    last_token = tl.minimum(last_token, context)
    visible = tl.minimum(context - q_len + query // heads + 1, last_token)  # causal, bottom-right

    # A tile that the range ends in goes without TMA, 16 keys at a time: fewer registers than a whole tile.
    REST: tl.constexpr = 16 if TMA else KEYS
    largest = tl.full([query.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([query.shape[0]], tl.float32)
    weighted = tl.zeros([query.shape[0], LATENT], tl.float32)
    if TMA:
        whole_tiles = last_token // KEYS
        for tile in tl.range(first_token // KEYS, whole_tiles, num_stages=STAGES):
            token = tl.load(table_row + tile * KEYS // BLOCK_SIZE) * BLOCK_SIZE + tile * KEYS % BLOCK_SIZE
            kv_latent = latent_desc.load([token, 0])
            k_rope = rope_desc.load([token, LATENT])
            position = tile * KEYS + tl.arange(0, KEYS)
            largest, total, weighted = _attend_tile(
                q_latent, q_rope, kv_latent, k_rope, position, visible, scale_log2, largest, total, weighted
            )
        first_token = tl.maximum(first_token, whole_tiles * KEYS)
    for token in tl.range(first_token, last_token, REST, num_stages=1 if TMA else STAGES, disable_licm=TMA):
        position = token + tl.arange(0, REST)
        # Behind the context may be a stale NaN, which a zero weight does not stop: load the last token again instead.
        loaded = tl.minimum(position, context - 1)
        if BLOCK_SIZE % REST == 0 and REST <= 64:  # one block holds the whole tile: a scalar base saves registers
            block = tl.load(table_row + token // BLOCK_SIZE).to(tl.int64)
        else:
            block = tl.load(table_row + loaded // BLOCK_SIZE).to(tl.int64)[:, None]
        source = kv_ptr + block * block_stride + (loaded % BLOCK_SIZE * token_stride)[:, None]
        kv_latent = tl.load(source + latent[None, :])
        k_rope = tl.load(source + rope[None, :])
        if EIGHT_BITS:
            kv_latent = kv_latent.to(tl.float16)
            k_rope = k_rope.to(tl.float16)
        largest, total, weighted = _attend_tile(
            q_latent, q_rope, kv_latent, k_rope, position, visible, scale_log2, largest, total, weighted
        )

    seen = total > 0
    lse = tl.where(seen, (largest + tl.log2(tl.where(seen, total, 1.0))) * 0.6931471805599453, float("-inf"))
    return weighted * (cache_scale / tl.where(seen, total, 1.0))[:, None], lse


@triton.jit  # type: ignore[untyped-decorator]
def store_queries(
    out_ptr: tl.tensor,
    lse_ptr: tl.tensor,
    first: tl.tensor,
    query: tl.tensor,
    queries: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    LATENT: tl.constexpr,
) -> None:
    """Store what `attend_range` returned to rows first + query of [*, LATENT] and [*], `first` being an int64."""
    is_query = query < queries
    target = first + query
    tl.store(lse_ptr + target, lse, mask=is_query)
    target = target[:, None] * LATENT + tl.arange(0, LATENT)[None, :]
    tl.store(out_ptr + target, out.to(out_ptr.dtype.element_ty), mask=is_query[:, None])
