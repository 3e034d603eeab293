"""Quantised checkpoints equal their widened twins, whole and in any slice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tokenspeed.engine.checkpoints.loader import load_checkpoint
from tokenspeed.engine.checkpoints.quantization import Fp8Blocks, Mxfp4, Nvfp4, PackedInt4, widened
from tokenspeed.engine.checkpoints.tensors import Tensors, WholeTensors
from tokenspeed.engine.models.fields import UnsupportedModel

from .tiny import VOCABULARY, Pair, logits

pytestmark = pytest.mark.serve

Tree = dict[str, torch.Tensor]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def fp8(name: str, weight: torch.Tensor, block: tuple[int, int] = (16, 24)) -> tuple[Tree, torch.Tensor]:
    """A weight in FP8 blocks that divide neither of its sides, and what it stands for."""
    high, wide = block
    stored, wanted = torch.zeros_like(weight, dtype=torch.float8_e4m3fn), torch.zeros_like(weight)
    scales = torch.zeros(-(-weight.shape[0] // high), -(-weight.shape[1] // wide))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            scales[i, j] = weight[part].abs().max() / 448
            stored[part] = (weight[part] / scales[i, j]).to(torch.float8_e4m3fn)
            wanted[part] = stored[part].float() * scales[i, j]
    return {f"{name}.weight": stored, f"{name}.weight_scale_inv": scales}, wanted


def int4(name: str, weight: torch.Tensor, group: int = 8) -> tuple[Tree, torch.Tensor]:
    """A weight in compressed-tensors' packed INT4."""
    out, into = weight.shape
    grouped = torch.nn.functional.pad(weight, (0, -into % group)).unflatten(1, (-1, group))
    scale = (grouped.abs().amax(-1) / 7).bfloat16()
    numbers = (grouped / scale.float()[..., None]).round().clamp(-7, 7).flatten(1)[:, :into]
    padded = torch.nn.functional.pad(numbers + 8, (0, -into % 8)).to(torch.int64).unflatten(1, (-1, 8))
    packed = sum(padded[..., place] << (4 * place) for place in range(8))
    assert isinstance(packed, torch.Tensor)
    packed = packed.where(packed < 2**31, packed - 2**32).int()
    wanted = numbers * scale.float().repeat_interleave(group, 1)[:, :into]
    shape = torch.tensor([out, into], dtype=torch.int32)
    tensors = {f"{name}.weight_packed": packed, f"{name}.weight_scale": scale, f"{name}.weight_shape": shape}
    return tensors, wanted


def nvfp4(name: str, weight: torch.Tensor) -> tuple[Tree, torch.Tensor]:
    """A weight in ModelOpt's NVFP4."""
    total = weight.abs().max() / (6 * 448)
    grouped = weight.unflatten(1, (-1, 16))
    scale = (grouped.abs().amax(-1) / 6 / total).to(torch.float8_e4m3fn)
    step = scale.float()[..., None] * total
    codes = (grouped[..., None] / step[..., None] - E2M1).abs().argmin(-1).flatten(1).to(torch.uint8)
    wanted = (E2M1[codes.int()].unflatten(1, (-1, 16)) * step).flatten(1)
    tensors = {
        f"{name}.weight": codes[:, ::2] | (codes[:, 1::2] << 4),
        f"{name}.weight_scale": scale,
        f"{name}.weight_scale_2": total,
        f"{name}.input_scale": torch.tensor(0.5),
    }
    return tensors, wanted


def mxfp4(name: str, weight: torch.Tensor) -> tuple[Tree, torch.Tensor]:
    """A weight in compressed-tensors' MXFP4."""
    into = weight.shape[1]
    grouped = torch.nn.functional.pad(weight, (0, -into % 32)).unflatten(1, (-1, 32))
    exponents = (grouped.abs().amax(-1) / 6).clamp(min=2.0**-20).log2().ceil()
    step = torch.exp2(exponents)[..., None]
    codes = (grouped[..., None] / step[..., None] - E2M1).abs().argmin(-1).flatten(1)[:, :into].to(torch.uint8)
    wanted = E2M1[codes.int()] * step.expand(grouped.shape).flatten(1)[:, :into]
    packed = codes[:, ::2] | (codes[:, 1::2] << 4)
    return {f"{name}.weight_packed": packed, f"{name}.weight_scale": (exponents + 127).to(torch.uint8)}, wanted


FORMATS: dict[str, tuple[Callable[[str, torch.Tensor], tuple[Tree, torch.Tensor]], dict[str, Any], str]] = {
    "fp8": (fp8, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 24]}, "_proj.weight"),
    "int4": (
        int4,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {
                        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 8,
                    },
                }
            },
            "ignore": ["lm_head", "re:.*self_attn.*"],
        },
        "experts.",
    ),
    "mxfp4": (mxfp4, {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, "experts."),
    "nvfp4": (nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "experts."),
}  # fmt: skip


def rewrite(pair: Pair, directory: Path, tensors: Tree, **changes: Any) -> Any:
    """A copy of a checkpoint with other tensors and changes of its config.json, opened."""
    directory.mkdir()
    config = json.loads((pair.directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    (directory / "tokenizer.json").write_bytes((pair.directory / "tokenizer.json").read_bytes())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / "model.safetensors")
    return load_checkpoint(str(directory))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_quantised_checkpoint_equals_its_widened_twin(
    pairs: Callable[[str], Pair], tmp_path: Path, kind: str
) -> None:
    pair = pairs("deepseek-v3")
    quantise, description, which = FORMATS[kind]
    stored: Tree = {}
    twin: Tree = {}
    for name, weight in load_file(pair.directory / "model.safetensors").items():
        if which in name and weight.ndim == 2:
            tensors, twin[name] = quantise(name.removesuffix(".weight"), weight)
            stored |= tensors
        else:
            stored[name] = twin[name] = weight
    ids = torch.arange(40) % VOCABULARY
    quantised = rewrite(pair, tmp_path / "quantised", stored, quantization_config=description)
    plain = rewrite(pair, tmp_path / "plain", twin)
    assert len(quantised.tensors) > len(plain.tensors)
    ours, wanted = (logits(checkpoint.build(torch.float32, "cpu"), ids) for checkpoint in (quantised, plain))
    assert torch.equal(ours, wanted)
    assert not torch.equal(wanted, logits(pair.ours, ids))
    # Without the description its bytes would be taken for numbers, or its scales for parameters.
    with pytest.raises(ValueError, match=r"lacks|holds|shape"):
        rewrite(pair, tmp_path / "undescribed", stored).build(torch.float32, "cpu")


@given(
    kind=st.sampled_from(["fp8", "int4", "mxfp4", "nvfp4"]),
    out=st.integers(1, 40),
    into=st.integers(1, 5),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_slice_is_that_part_of_the_whole(kind: str, out: int, into: int, data: st.DataObject) -> None:
    """Whatever begins and ends inside of blocks, groups and bytes: a rank's shard needs not fit them."""
    width = into * (16 if kind == "nvfp4" else 22 if kind == "mxfp4" else 11)
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(out * 100 + into))
    tensors, wanted = FORMATS[kind][0]("x", weight)
    source = WholeTensors(tensors)
    shown: Tensors = {
        "fp8": Fp8Blocks(source, (16, 24)),
        "int4": PackedInt4(source, 8),
        "mxfp4": Mxfp4(source),
        "nvfp4": Nvfp4(source),
    }[kind]
    assert set(shown) == {"x.weight"}
    assert shown.shape("x.weight") == (out, width)
    ranges = []
    for size in (out, width):
        start = data.draw(st.integers(0, size - 1))
        ranges.append(range(start, data.draw(st.integers(start + 1, size))))
    part = shown.slice("x.weight", tuple(ranges))
    assert torch.equal(part, wanted[ranges[0].start : ranges[0].stop, ranges[1].start : ranges[1].stop])


def test_mxfp4_is_a_table_times_a_power_of_two() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(2, 128)
    scales = torch.tensor([[127, 0, 250, 126, 128, 120, 130, 127]] * 2, dtype=torch.uint8)
    values = Mxfp4(WholeTensors({"x.weight_packed": codes, "x.weight_scale": scales})).slice(
        "x.weight", (range(2), range(256))
    )
    for row in range(2):
        for column in range(256):
            byte = int(codes[row, column // 2])
            wanted = float(E2M1[byte >> 4 if column % 2 else byte & 15]) * 2.0 ** (int(scales[row, column // 32]) - 127)
            assert float(values[row, column]) == wanted


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method='gptq'"),
        ({"quant_method": "fp8"}, "weight_block_size=None"),
        ({"quant_method": "fp8", "weight_block_size": [128, 0]}, r"weight_block_size=\[128, 0\]"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "quant_algo='FP8'"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "format='float-quantized'"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": 3}, "config_groups=3"),
    ],
)
def test_a_format_that_is_not_supported_is_named(description: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        widened(WholeTensors({}), description)


def test_an_asymmetric_int4_checkpoint_is_refused() -> None:
    description = json.loads(json.dumps(FORMATS["int4"][1]))
    description["config_groups"]["group_0"]["weights"]["symmetric"] = False
    with pytest.raises(UnsupportedModel, match="symmetric=False"):
        widened(WholeTensors({}), description)


def test_scales_that_do_not_fit_are_named() -> None:
    tensors, _ = fp8("x", torch.randn(20, 20))
    tensors["x.weight_scale_inv"] = torch.ones(1, 1)
    with pytest.raises(UnsupportedModel, match=r"x\.weight_scale_inv has shape \(1, 1\); FP8 blocks needs \(2, 1\)"):
        Fp8Blocks(WholeTensors(tensors), (16, 24)).slice("x.weight", (range(20), range(20)))
