"""Sampling parameters refuse what cannot work; the sampler draws from the distribution that the parameters describe."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenspeed.engine.run.sampler import SamplingTable, sample
from tokenspeed.engine.run.sampling import derive_seed, uniform
from tokenspeed.engine.run.step.arrays import StepShape, buffer_bytes, device_arrays, host_arrays
from tokenspeed.engine.text.sampling_params import GREEDY, InvalidSamplingParam, SamplingParams

pytestmark = pytest.mark.serve


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", None),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", 1.0),
        ("min_p", -0.5),
        ("top_k", -1),
        ("top_k", 1.0),
        ("top_k", 2**31),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", None),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 1.0),
        ("stop", ("",)),
        ("stop", "end"),
        ("stop", tuple("abcdefghijklmnopq")),
        ("stop", (3,)),
        ("stop_token_ids", [1]),
        ("stop_token_ids", (-1,)),
        ("ignore_eos", 1),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(InvalidSamplingParam, match=f"^{field}=") as caught:
        SamplingParams(**arguments)
    assert caught.value.field == field


def test_values_at_the_borders_are_accepted() -> None:
    SamplingParams(
        temperature=0, top_p=1, min_p=0, top_k=0, max_tokens=1, seed=-(2**63), stop=tuple("abcdefghijklmnop")
    )
    SamplingParams(temperature=2, top_p=1e-9, min_p=0.999, top_k=2**31 - 1, max_tokens=2**31 - 1, seed=2**63 - 1)


def choose(
    logits: torch.Tensor,
    params: Sequence[SamplingParams],
    positions: np.ndarray,
    uniform: np.ndarray | None = None,
) -> torch.Tensor:
    """One token for each row, whose request has a slot of its own; `uniform` instead of the seeds' numbers."""
    slots = np.arange(len(params))
    shape = StepShape(len(params), len(params), len(params))
    buffer = np.zeros(buffer_bytes(shape), dtype=np.uint8)
    table = SamplingTable(len(params))
    table.assign(slots, slots, dict(enumerate(params)))
    table.write(slots, positions, host_arrays(buffer, shape))
    step = device_arrays(torch.from_numpy(buffer), shape)
    if uniform is not None:
        step.uniform.copy_(torch.from_numpy(uniform))
    return sample(logits, step)


def draw(logits: torch.Tensor, params: SamplingParams, count: int = 1) -> np.ndarray:
    """`count` tokens from one row of logits, each at its own position."""
    return choose(logits.expand(count, -1), [params] * count, np.arange(count)).numpy()


def supported(logits: torch.Tensor, params: SamplingParams) -> set[int]:
    """The tokens that the definition of the filters keeps, computed the slow way for one row."""
    p = torch.softmax(logits.double() / params.temperature, dim=-1)
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if params.top_k:
        order = order[: params.top_k]
    mass = sum(float(p[i]) for i in order)
    kept: list[int] = []
    reached = 0.0
    for i in order:
        if kept and reached >= params.top_p * mass:
            break
        kept.append(i)
        reached += float(p[i])
    return {i for i in kept if p[i] >= params.min_p * p[order[0]]}


@given(
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 10, 40, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.83, 0.97, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
)
@settings(max_examples=100, deadline=None)
def test_only_tokens_that_the_filters_keep_are_drawn_and_all_of_them_can_be(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 2
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    kept = supported(logits, params)
    tokens = set(draw(logits, params, 4000).tolist())
    assert tokens <= kept
    p = torch.softmax(logits.double() / temperature, dim=-1)
    mass = sum(float(p[i]) for i in kept)
    likely = {i for i in kept if float(p[i]) / mass > 0.01}  # missed with probability below 1e-17
    assert likely <= tokens


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0], ids=["flat", "normal", "peaked"])
@pytest.mark.parametrize("top_k", [0, 7, 1500])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.4])
def test_a_large_vocabulary_is_filtered_as_the_definition_says(
    scale: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Flat distributions need more candidates than the sampler looks at first."""
    logits = torch.randn(4000, generator=torch.Generator().manual_seed(3)) * scale
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p, seed=0)
    others = [SamplingParams(seed=0), SamplingParams(top_k=1, seed=0), GREEDY]
    count = 50
    u = np.append(np.linspace(0, 0.999, count), [0.5, 0.5, 0.5])
    tokens = choose(logits.expand(count + 3, -1), [params] * count + others, np.arange(count + 3), u).tolist()

    p = torch.softmax(logits.double(), dim=-1).numpy()
    kept = supported(logits, params)
    cumulative = np.cumsum(np.where(np.isin(np.arange(4000), list(kept)), p, 0))
    expected = np.searchsorted(cumulative, u[:count] * cumulative[-1], side="right")
    # float32 probabilities may move a border of the cumulative sum past a random number, to the next kept token.
    order = {token: i for i, token in enumerate(sorted(kept))}
    assert set(tokens[:count]) <= kept
    assert max(abs(order[a] - order[int(b)]) for a, b in zip(tokens[:count], expected, strict=True)) <= 1
    assert tokens[-2] == tokens[-1] == int(logits.argmax())


def test_frequencies_follow_the_softmax() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])
    count = 40_000
    found = np.bincount(draw(logits, SamplingParams(temperature=0.8, seed=11), count), minlength=5) / count
    exact = torch.softmax(logits.double() / 0.8, dim=-1).numpy()
    assert np.abs(found - exact).max() < 5 * math.sqrt(0.25 / count)


def test_the_two_most_likely_of_four_share_their_mass_under_top_k() -> None:
    logits = torch.log(torch.tensor([0.1, 0.4, 0.2, 0.3]))
    count = 20_000
    found = np.bincount(draw(logits, SamplingParams(top_k=2, seed=5), count), minlength=4) / count
    assert found[0] == found[2] == 0
    assert abs(found[1] - 4 / 7) < 0.02


def test_greedy_rows_take_the_maximum_next_to_sampled_rows() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    params = [GREEDY, SamplingParams(seed=1), GREEDY, SamplingParams(seed=2, top_p=0.5), GREEDY, GREEDY]
    tokens = choose(logits, params, np.arange(6))
    greedy = [0, 2, 4, 5]
    assert tokens[greedy].tolist() == logits[greedy].argmax(dim=-1).tolist()


@pytest.mark.parametrize("temperature", [1e-3, 1e-37, 1e-300])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([1.0, 3.0, 2.9, -4.0]) * 100
    assert set(draw(logits, SamplingParams(temperature=temperature, seed=3), 100).tolist()) == {1}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_token_does_not_depend_on_its_neighbours_in_the_batch(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    logits = torch.randn(rows, 300, generator=generator) * 3
    params = [
        SamplingParams(
            temperature=data.draw(st.sampled_from([0.0, 0.7, 1.5])),
            top_k=data.draw(st.sampled_from([0, 5])),
            top_p=data.draw(st.sampled_from([0.9, 1.0])),
            seed=data.draw(st.integers(-(2**63), 2**63 - 1)),
        )
        for _ in range(rows)
    ]
    positions = np.array([data.draw(st.integers(0, 100_000)) for _ in range(rows)])
    together = choose(logits, params, positions).tolist()
    alone = [choose(logits[i : i + 1], params[i : i + 1], positions[i : i + 1]).item() for i in range(rows)]
    assert together == alone
    assert choose(logits.flip(0), params[::-1], positions[::-1]).tolist() == together[::-1]


def test_different_seeds_and_positions_give_independent_uniform_numbers() -> None:
    seeds, positions = np.meshgrid(np.arange(300, dtype=np.int64), np.arange(300, dtype=np.int64), indexing="ij")
    u = uniform(seeds.ravel(), positions.ravel()).reshape(300, 300)
    assert ((u >= 0) & (u < 1)).all()
    assert len(np.unique(u)) == u.size
    counts = np.bincount((u.ravel() * 100).astype(int), minlength=100)
    chi_square = ((counts - 900.0) ** 2 / 900).sum()
    assert chi_square < 170  # 99 degrees of freedom: exceeded with probability 1e-5, and the numbers are fixed
    for a, b in ((u[:-1], u[1:]), (u[:, :-1], u[:, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_seeds_derived_for_requests_differ_and_repeat() -> None:
    derived = [derive_seed(runner, request) for runner in (0, 1, -1) for request in range(100)]
    assert len(set(derived)) == 300
    assert derived[0] == derive_seed(0, 0)
    SamplingParams(seed=derived[0])  # in range


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_extremes_of_the_random_number_stay_inside_the_support(dtype: torch.dtype) -> None:
    logits = torch.full((2, 1000), -50.0, dtype=dtype)
    logits[:, 100:900] = 0.0
    params = SamplingParams(top_p=0.9, seed=0)
    first, last = choose(logits, [params, params], np.array([0, 1]), np.array([0.0, 1 - 2.0**-53])).tolist()
    assert 100 <= first <= last < 900
