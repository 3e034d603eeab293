"""Selecting kernels: who fits, who wins, what is said about it, and how users and third parties intervene."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenspeed.kernels import (
    ANY_DEVICE,
    REGISTRY,
    Band,
    Capability,
    Constraint,
    InvalidKernel,
    KernelDoesNotFit,
    Platform,
    UnknownKernel,
    UnknownOperation,
    at_least,
    at_most,
    exactly,
    explain,
    multiple_of,
    one_of,
    power_of_two,
)
from tokenspeed.kernels.registry import Registry

pytestmark = pytest.mark.serve

CPU = torch.device("cpu")
HOPPER = Capability("cuda", 90)


def nothing() -> None:
    """A kernel."""


def make_registry() -> Registry:
    """Operation `blend` with a reference, a portable kernel for the CPU and a special one for Hopper."""
    registry = Registry()
    registry.declare("blend", traits=("heads", "q_len"))
    registry.register("blend", name="reference", band=Band.REFERENCE)(nothing)
    registry.register("blend", name="portable", band=Band.PORTABLE, platforms=(Platform("cpu"), Platform("cuda", 80)))(
        nothing
    )
    registry.register(
        "blend",
        name="hopper",
        band=Band.SPECIALIZED,
        platforms=(Platform("cuda", 90, 90),),
        dtypes=(torch.bfloat16,),
        traits={"heads": multiple_of(16), "q_len": at_most(4)},
    )(nothing)
    return registry


def chosen(registry: Registry, device: Capability | str, dtype: torch.dtype, heads: int = 16, q_len: int = 1) -> str:
    return registry.explain("blend", device=device, dtype=dtype, heads=heads, q_len=q_len).kernel.name


def test_derived_traits_follow_from_the_others() -> None:
    registry = Registry()
    registry.declare("blend", traits=("heads", "q_len"), derived={"queries": lambda t: t["heads"] * t["q_len"]})
    registry.register("blend", name="reference", band=Band.REFERENCE)(nothing)
    registry.register("blend", name="many", band=Band.PORTABLE, traits={"queries": at_least(17)})(nothing)
    assert chosen(registry, "cpu", torch.float32, heads=6, q_len=3) == "many"
    assert chosen(registry, "cpu", torch.float32, heads=16, q_len=1) == "reference"
    assert registry.operation("blend").select(CPU, torch.float32, (16, 2)).kernel.name == "many"
    selection = registry.explain("blend", device="cpu", dtype=torch.float32, heads=4, q_len=2)
    assert "queries=8, needs at least 17" in str(selection)
    with pytest.raises(TypeError, match=r"has traits heads, q_len; got heads, q_len, queries"):
        registry.explain("blend", device="cpu", dtype=torch.float32, heads=4, q_len=2, queries=8)


def test_highest_band_that_fits_is_chosen() -> None:
    registry = make_registry()
    assert chosen(registry, HOPPER, torch.bfloat16) == "hopper"
    assert chosen(registry, HOPPER, torch.float16) == "portable"
    assert chosen(registry, HOPPER, torch.bfloat16, heads=24) == "portable"
    assert chosen(registry, HOPPER, torch.bfloat16, q_len=5) == "portable"
    assert chosen(registry, Capability("cuda", 100), torch.bfloat16) == "portable"
    assert chosen(registry, "cpu", torch.bfloat16) == "portable"
    assert chosen(registry, Capability("cuda", 75), torch.bfloat16) == "reference"
    assert chosen(registry, Capability("xpu"), torch.bfloat16) == "reference"


def test_explanation_gives_a_verdict_and_the_reasons_for_every_kernel() -> None:
    selection = make_registry().explain("blend", device=Capability("cuda", 86), dtype=torch.float32, heads=24, q_len=8)
    verdicts = {candidate.name: (candidate.verdict, candidate.reasons) for candidate in selection.candidates}
    assert verdicts["portable"][0] == "chosen"
    assert verdicts["reference"] == ("fits", ("portable goes first",))
    assert verdicts["hopper"] == (
        "rejected",
        (
            "runs on cuda sm_90, not on cuda sm_86",
            "dtype float32, needs one of bfloat16",
            "heads=24, needs a multiple of 16",
            "q_len=8, needs at most 4",
        ),
    )
    text = str(selection)
    assert text.splitlines()[0] == "blend on cuda sm_86, float32, heads=24, q_len=8"
    assert "rejected    hopper [specialized]: runs on cuda sm_90, not on cuda sm_86; dtype" in text


def test_equal_bands_are_ordered_by_name() -> None:
    registry = make_registry()
    registry.register("blend", name="another", band=Band.PORTABLE)(nothing)
    assert chosen(registry, "cpu", torch.float32) == "another"


def test_a_kernel_to_be_asked_for_by_name_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = make_registry()
    declare = registry.register("blend", name="draft", band=Band.SPECIALIZED, only_by_name="never run on a device")
    declare(nothing)
    operation = registry.operation("blend")
    assert chosen(registry, "cpu", torch.float32) == "portable"
    assert chosen(registry, Capability("xpu"), torch.float32) == "reference"
    selection = registry.explain("blend", device="cpu", dtype=torch.float32, heads=16, q_len=1)
    assert "  only named  draft [specialized]: never run on a device" in str(selection).splitlines()
    assert operation.select(CPU, torch.float32, (16, 1), "draft").kernel.name == "draft"
    monkeypatch.setenv("TOKENSPEED_KERNEL_BLEND", "draft")
    assert operation.select(CPU, torch.float32, (16, 1)).kernel.name == "draft"
    assert operation.select(CPU, torch.float32, (16, 1), "portable").kernel.name == "portable"


BANDS = st.sampled_from([Band.PORTABLE, Band.OPTIMIZED, Band.SPECIALIZED])
PLATFORMS = st.sampled_from([ANY_DEVICE, Platform("cpu"), Platform("cuda", 80), Platform("cuda", 90, 90)])
DTYPES = st.sampled_from([None, (torch.float32,), (torch.bfloat16, torch.float16)])
HEADS = st.sampled_from([None, exactly(16), at_least(32), one_of(8, 16), power_of_two()])


@given(
    kernels=st.lists(st.tuples(BANDS, PLATFORMS, DTYPES, HEADS), max_size=6),
    device=st.sampled_from([Capability("cpu"), Capability("cuda", 80), HOPPER, Capability("rocm")]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    heads=st.sampled_from([8, 12, 16, 32, 48]),
)
def test_the_winner_fits_and_nothing_that_fits_ranks_higher(
    kernels: list[tuple[Band, Platform, tuple[torch.dtype, ...] | None, Constraint | None]],
    device: Capability,
    dtype: torch.dtype,
    heads: int,
) -> None:
    registry = Registry()
    operation = registry.declare("blend", traits=("heads",))
    registry.register("blend", name="reference", band=Band.REFERENCE)(nothing)
    for index, (band, platform, dtypes, constraint) in enumerate(kernels):
        traits = {} if constraint is None else {"heads": constraint}
        registry.register(
            "blend", name=f"kernel{index}", band=band, platforms=(platform,), dtypes=dtypes, traits=traits
        )(nothing)
    selection = registry.explain("blend", device=device, dtype=dtype, heads=heads)
    fitting = [kernel for kernel in operation.kernels() if not kernel.objections(selection.problem)]
    assert selection.kernel in fitting
    assert selection.kernel.band == max(kernel.band for kernel in fitting)
    assert (selection.kernel.name == "reference") == (len(fitting) == 1)
    assert {candidate.name for candidate in selection.candidates if candidate.verdict == "rejected"} == {
        kernel.name for kernel in operation.kernels() if kernel not in fitting
    }


@pytest.mark.parametrize(
    ("constraint", "accepted", "refused"),
    [
        (exactly(4), [4], [3, 5]),
        (one_of(64, 128), [64, 128], [96]),
        (at_least(4), [4, 5], [3]),
        (at_most(4), [3, 4], [5]),
        (multiple_of(16), [16, 48], [8, 17]),
        (power_of_two(), [1, 2, 64], [0, 3, 48]),
    ],
)
def test_constraints(constraint: Constraint, accepted: list[int], refused: list[int]) -> None:
    assert all(map(constraint.holds, accepted))
    assert not any(map(constraint.holds, refused))


def test_selection_is_computed_once_for_each_key() -> None:
    operation = make_registry().operation("blend")
    first = operation.select(CPU, torch.float32, (16, 1))
    assert operation.select(CPU, torch.float32, (16, 1)) is first
    assert operation.select(CPU, torch.float32, (16, 2)) is not first


def test_a_kernel_registered_later_is_seen() -> None:
    registry = make_registry()
    operation = registry.operation("blend")
    assert operation.select(CPU, torch.float32, (16, 1)).kernel.name == "portable"
    registry.register("blend", name="late", band=Band.OPTIMIZED)(nothing)
    assert operation.select(CPU, torch.float32, (16, 1)).kernel.name == "late"


def test_override_by_argument_and_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = make_registry().operation("blend")

    def name(override: str | None = None) -> str:
        return operation.select(CPU, torch.float32, (16, 1), override).kernel.name

    assert name() == "portable"
    assert name("reference") == "reference"
    monkeypatch.setenv("TOKENSPEED_KERNEL_BLEND", "reference")
    assert name() == "reference"
    assert name("portable") == "portable"  # the argument goes before the environment
    monkeypatch.setenv("TOKENSPEED_KERNEL_BLEND", "")
    assert name() == "portable"


def test_override_that_does_not_fit_says_why_and_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = make_registry().operation("blend")
    with pytest.raises(KernelDoesNotFit, match=r"kernel='hopper'.*runs on cuda sm_90, not on cpu.*portable, reference"):
        operation.select(CPU, torch.bfloat16, (16, 1), "hopper")
    monkeypatch.setenv("TOKENSPEED_KERNEL_BLEND", "hopper")
    with pytest.raises(KernelDoesNotFit, match=r"TOKENSPEED_KERNEL_BLEND=hopper"):
        operation.select(CPU, torch.bfloat16, (16, 1))


def test_override_of_an_unknown_kernel_lists_the_kernels() -> None:
    with pytest.raises(UnknownKernel, match=r"blend has no kernel of this name; it has hopper, portable, reference"):
        make_registry().operation("blend").select(CPU, torch.bfloat16, (16, 1), "hoper")


def test_unknown_operation_lists_the_operations() -> None:
    registry = make_registry()
    with pytest.raises(UnknownOperation, match=r"'blnd'; known operations: blend"):
        registry.explain("blnd", device="cpu", dtype=torch.float32)
    with pytest.raises(UnknownOperation):
        registry.register("blnd", name="kernel", band=Band.PORTABLE)


def test_explain_wants_exactly_the_traits() -> None:
    with pytest.raises(TypeError, match=r"blend has traits heads, q_len; got heads"):
        make_registry().explain("blend", device="cpu", dtype=torch.float32, heads=16)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda r: r.register("blend", name="portable", band=Band.PORTABLE)(nothing), "already has a kernel named"),
        (
            lambda r: r.register("blend", name="new", band=Band.PORTABLE, traits={"pages": exactly(1)})(nothing),
            "constrains pages, but blend has heads, q_len",
        ),
        (
            lambda r: r.register("blend", name="new", band=Band.REFERENCE, dtypes=(torch.float32,))(nothing),
            "must fit everything",
        ),
        (
            lambda r: r.register("blend", name="new", band=Band.REFERENCE, only_by_name="slow")(nothing),
            "leave it out for a REFERENCE",
        ),
        (
            lambda r: r.register("blend", name="new", band=Band.PORTABLE, only_by_name="")(nothing),
            "say why it is not to be chosen",
        ),
        (lambda r: r.declare("blend", traits=()), "already declared"),
        (
            lambda r: r.register("blend", name="new", band=Band.PORTABLE, traits={"heads": 3})(nothing),
            r"'new' has heads=3; use a constraint, such as exactly\(3\)",
        ),
        (
            lambda r: r.register("blend", name="new", band=Band.PORTABLE, dtypes=torch.float32)(nothing),
            "'new' has dtypes=float32; it must be a tuple",
        ),
    ],
)
def test_wrong_declarations_are_refused(declare: Callable[[Registry], object], message: str) -> None:
    with pytest.raises(InvalidKernel, match=message):
        declare(make_registry())


def test_an_operation_without_a_reference_is_refused() -> None:
    registry = Registry()
    registry.declare("blend", traits=())
    registry.register("blend", name="portable", band=Band.PORTABLE)(nothing)
    with pytest.raises(InvalidKernel, match="no kernel in band REFERENCE"):
        registry.explain("blend", device="cpu", dtype=torch.float32)


def test_every_operation_has_one_reference_and_it_is_the_last_choice() -> None:
    for name in REGISTRY.operations():
        traits: dict[str, Any] = dict.fromkeys(REGISTRY.operation(name).traits, 16)
        selection = explain(name, device="cpu", dtype=torch.float32, **traits)
        bands = [candidate.band for candidate in selection.candidates if candidate.band is not None]
        assert bands.count(Band.REFERENCE) == 1 and bands[-1] is Band.REFERENCE


def run_python(code: str, *path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *filter(None, sys.path)])}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_triton_is_imported_late_and_its_absence_is_a_reason() -> None:
    output = run_python(
        "import sys, torch\n"
        "import tokenspeed.kernels as kernels\n"
        "assert 'triton' not in sys.modules\n"
        "sys.modules['triton'] = None\n"  # importing it now fails as if it were not installed
        "batch = torch.zeros(1, 1, 16, 576), torch.zeros(1, 64, 576)\n"
        "table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)\n"
        "kernels.mla_decode(*batch, table, lens, scale=1.0)\n"
        "print(kernels.explain('mla_decode', device='cpu', dtype=torch.float32, heads=16, q_len=1, block_size=64,"
        " dense_cache=1, cache_bits=16))\n"
        "try:\n"
        "    kernels.mla_decode(*batch, table, lens, scale=1.0, kernel='triton_split_kv')\n"
        "except kernels.UnknownKernel as error:\n"
        "    print('error:', error)\n"
    )
    assert "chosen      reference" in output
    assert "unavailable tokenspeed.kernels.mla.triton_split_kv: cannot be imported: import of triton halted" in output
    assert "error: kernel='triton_split_kv': mla_decode has no kernel of this name" in output
    assert "unavailable tokenspeed.kernels.mla.gluon_hopper: cannot be imported: " in output


def install_plugin(site: Path, name: str, code: str) -> None:
    (site / f"{name}.py").write_text(code)
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[tokenspeed.kernels]\n{name} = {name}\n")


def test_third_parties_add_kernels_by_entry_point(tmp_path: Path) -> None:
    install_plugin(
        tmp_path,
        "good_plugin",
        "from tokenspeed.kernels import Band, register\n"
        "@register('write_kv', name='good', band=Band.OPTIMIZED)\n"
        "def write_kv(k, v, k_cache, v_cache, slot_mapping):\n"
        "    print('good kernel ran')\n",
    )
    install_plugin(tmp_path, "bad_plugin", "raise ZeroDivisionError('oops')\n")
    output = run_python(
        "import warnings, torch\n"
        "from tokenspeed.kernels import explain, write_kv\n"
        "k, cache = torch.zeros(1, 2, 4), torch.zeros(1, 8, 2, 4)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    write_kv(k, k, cache, cache, torch.zeros(1, dtype=torch.int64))\n"
        "print('warned:', *(str(w.message) for w in caught if w.category is RuntimeWarning))\n"
        "traits = dict(kv_heads=2, head_dim=4, block_size=8, layout='heads_adjoin')\n"
        "print(explain('write_kv', device='cpu', dtype=torch.float32, **traits))\n",
        tmp_path,
    )
    assert "good kernel ran" in output
    assert "chosen      good [optimized]" in output
    assert "warned: kernels of bad_plugin are not available" in output
    assert "unavailable bad_plugin: entry point 'bad_plugin'" in output and "ZeroDivisionError: oops" in output


def make_folder(site: Path, package: str, module: str, code: str) -> None:
    folder = site / package
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / f"{module}.py").write_text(code)


def test_a_missing_dependency_is_a_reason_but_our_own_broken_import_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    make_folder(tmp_path, "needs_library", "fast", "import no_such_library_at_all\n")
    registry = Registry()
    operation = registry.declare("blend", traits=(), folder="needs_library")
    registry.register("blend", name="reference", band=Band.REFERENCE)(nothing)
    last = operation.select(CPU, torch.float32, ()).candidates[-1]
    assert (last.name, last.verdict) == ("needs_library.fast", "unavailable")
    assert "No module named 'no_such_library_at_all'" in last.reasons[0]

    make_folder(tmp_path, "is_broken", "fast", "import is_broken.renamed\n")
    registry.declare("blend2", traits=(), folder="is_broken")
    with pytest.raises(ModuleNotFoundError, match=r"is_broken\.renamed"):
        registry.explain("blend2", device="cpu", dtype=torch.float32)


def test_layouts_and_dtypes_of_other_tensors_are_traits() -> None:
    registry = Registry()
    registry.declare("blend", traits=("layout", "cache_dtype"))
    registry.register("blend", name="reference", band=Band.REFERENCE)(nothing)
    wanted = {"layout": exactly("dense"), "cache_dtype": one_of(torch.bfloat16, torch.float8_e4m3fn)}
    registry.register("blend", name="fast", band=Band.PORTABLE, traits=wanted)(nothing)

    def selection(layout: str, cache_dtype: torch.dtype) -> str:
        return str(
            registry.explain("blend", device="cpu", dtype=torch.bfloat16, layout=layout, cache_dtype=cache_dtype)
        )

    assert "chosen      fast" in selection("dense", torch.float8_e4m3fn)
    refused = selection("interleaved", torch.float16)
    assert "layout=interleaved, needs exactly dense" in refused
    assert "cache_dtype=float16, needs one of bfloat16, float8_e4m3fn" in refused
