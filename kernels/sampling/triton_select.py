"""`sample_tokens` in Triton: one program for each row, which finds thresholds by radix search instead of sorting.

The weight of a token is exp((logit - largest) / temperature), from 0 to 1. Bit patterns of such floats order like the
floats, so the k-th largest weight is found two bits at a time, 15 passes that count how many weights reach each of
three candidates; the nucleus of top_p likewise, by sums of weights (in float64) instead of counts. A row without
filters takes three passes. Logits stay in the L2 cache meanwhile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import Band
from ..registry import register
from ..triton_support import DTYPES, PLATFORMS, next_power_of_two

BLOCK = 4096
"""Tokens that a program reads at once."""


@triton.jit  # type: ignore[untyped-decorator]
def _weights(row_ptr, begin, vocab, largest, inverse_temperature, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weights of the tokens from `begin` on; 0 beyond the vocabulary, and for logits that are NaN."""
    token = begin + tl.arange(0, BLOCK)
    logits = tl.load(row_ptr + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    weights = tl.exp((logits - largest) * inverse_temperature)
    return tl.where(weights > 0, weights, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _reaching(row_ptr, vocab, largest, inverse_temperature, threshold, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of the weights whose bits are at least `threshold`, and their number, both float64."""
    mass = tl.zeros([BLOCK], tl.float64)
    number = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, vocab, BLOCK):
        weights = _weights(row_ptr, begin, vocab, largest, inverse_temperature, BLOCK)
        reaches = weights.to(tl.int32, bitcast=True) >= threshold
        mass += tl.where(reaches, weights, 0.0).to(tl.float64)
        number += reaches.to(tl.int32)
    return tl.sum(mass, 0), tl.sum(number, 0).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def _search(row_ptr, vocab, largest, inverse_temperature, goal, by_mass, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Bits of the largest threshold which weights reach whose number, or sum if `by_mass`, is at least `goal`."""
    threshold = 0
    for digit in range(0, 15):
        unit = 1 << (28 - 2 * digit)
        # Added up across the program only once, at the end: its warps would wait for each other in every block.
        first = tl.zeros([BLOCK], tl.float64)
        second = tl.zeros([BLOCK], tl.float64)
        third = tl.zeros([BLOCK], tl.float64)
        for begin in range(0, vocab, BLOCK):
            weights = _weights(row_ptr, begin, vocab, largest, inverse_temperature, BLOCK)
            bits = weights.to(tl.int32, bitcast=True)
            amount = tl.where(by_mass, weights, 1.0).to(tl.float64)
            first += tl.where(bits >= threshold + unit, amount, 0.0)
            second += tl.where(bits >= threshold + 2 * unit, amount, 0.0)
            third += tl.where(bits >= threshold + 3 * unit, amount, 0.0)
        reached = (tl.sum(first, 0) >= goal).to(tl.int32)
        reached += (tl.sum(second, 0) >= goal).to(tl.int32)
        reached += (tl.sum(third, 0) >= goal).to(tl.int32)
        threshold += reached * unit
    return threshold


@triton.jit(do_not_specialize=["vocab"])  # type: ignore[untyped-decorator]
def sample_row(
    logits_ptr: tl.tensor,  # [rows, vocab] with stride
    temperature_ptr: tl.tensor,  # float32 [rows], and so are top_p and min_p
    top_k_ptr: tl.tensor,  # int32 [rows]
    top_p_ptr: tl.tensor,
    min_p_ptr: tl.tensor,
    uniform_ptr: tl.tensor,  # float64 [rows]
    token_ptr: tl.tensor,  # int64 [rows]
    stride: tl.tensor,
    vocab: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Grid: (rows,)."""
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * stride
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_token = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, vocab, BLOCK):
        token = begin + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        best_token = tl.where(logits > best, token, best_token)
        best = tl.where(logits > best, logits, best)
    largest = tl.max(best, 0)
    chosen = tl.min(tl.where(best == largest, best_token, vocab - 1), 0)  # the first one of equals

    temperature = tl.load(temperature_ptr + row)
    if temperature <= 0:
        tl.store(token_ptr + row, tl.cast(chosen, tl.int64))
        return

    inverse = 1.0 / tl.maximum(temperature, 1e-30)  # below, the division would overflow; the result is the same
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row).to(tl.float64)
    is_limited = (top_k > 0) & (top_k < vocab)
    threshold = 0
    for by_mass in range(0, 2):
        if (is_limited & (by_mass == 0)) | ((top_p < 1) & (by_mass == 1)):
            goal = top_k.to(tl.float64)
            if by_mass == 1:
                # Equals of the k-th that were kept beyond k count for nothing here.
                above, number = _reaching(row_ptr, vocab, largest, inverse, threshold + is_limited.to(tl.int32), BLOCK)
                last = tl.cast(threshold, tl.float32, bitcast=True).to(tl.float64)
                goal = top_p * tl.where(is_limited, above + (goal - number) * last, above)
            found = _search(row_ptr, vocab, largest, inverse, goal, by_mass == 1, BLOCK)
            threshold = tl.maximum(threshold, found)
    least = tl.load(min_p_ptr + row).to(tl.int32, bitcast=True)
    threshold = tl.maximum(threshold, least)

    mass, _ = _reaching(row_ptr, vocab, largest, inverse, threshold, BLOCK)
    # The sums below are in another order, and may differ from the mass in their last bits: stay within both.
    goal = tl.minimum(tl.load(uniform_ptr + row), 1.0 - 1e-12) * mass
    before = tl.sum(tl.zeros([BLOCK], tl.float64), 0)
    for begin in range(0, vocab, BLOCK):
        weights = _weights(row_ptr, begin, vocab, largest, inverse, BLOCK)
        token = begin + tl.arange(0, BLOCK)
        weights = tl.where(weights.to(tl.int32, bitcast=True) >= threshold, weights, 0.0)
        amount = weights.to(tl.float64)
        after = before + tl.sum(amount, 0)
        # Nothing has a weight if every logit is NaN or infinite: the first choice stays.
        if (before <= goal) & (after > goal) & (mass > 0):
            passed = tl.sum((before + tl.cumsum(amount, 0) <= goal).to(tl.int32), 0)
            last_token = tl.max(tl.where(weights > 0, token, 0), 0)
            chosen = tl.minimum(begin + passed, last_token)
        before = after
    tl.store(token_ptr + row, tl.cast(chosen, tl.int64))


@register("sample_tokens", name="triton_select", band=Band.PORTABLE, platforms=PLATFORMS, dtypes=DTYPES)
def sample_tokens(
    logits: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """One launch. Arguments as in the public `sample_tokens`."""
    rows, vocab = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows == 0:
        return tokens
    source = logits if logits.stride(1) == 1 else logits.contiguous()
    block = min(BLOCK, next_power_of_two(vocab))
    with torch.cuda.device_of(logits):  # Triton launches on the current device, which need not be logits'
        sample_row[(rows,)](
            source,
            temperature.contiguous(),
            top_k.contiguous(),
            top_p.contiguous(),
            min_p.contiguous(),
            uniform.contiguous(),
            tokens,
            source.stride(0),
            vocab,
            BLOCK=block,
            num_warps=max(1, min(16, block // 256)),
        )
    return tokens
