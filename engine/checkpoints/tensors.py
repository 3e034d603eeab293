"""The tensors of a checkpoint's files, read a slice at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from .checkpoint import CheckpointError
from .json_files import read_json

Ranges = tuple[range, ...]


class Tensors(Protocol):
    """Tensors by name, in the precision that the files have."""

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        ...

    def slice(self, name: str, ranges: Ranges) -> torch.Tensor:
        """A range of each dimension, on the CPU. Raises CheckpointError naming file and tensor."""
        ...

    def where(self, name: str) -> str:
        """File and tensor, for errors."""
        ...


class SafetensorsTensors(Mapping[str, torch.Tensor]):
    """Tensors by name from model.safetensors or the shards of model.safetensors.index.json, read when asked for."""

    def __init__(self, directory: Path) -> None:
        """Raises CheckpointError if there are no safetensors, or a shard is absent or damaged."""
        index = directory / "model.safetensors.index.json"
        weight_map: dict[str, str] | None = None
        files = ["model.safetensors"]
        if index.exists():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
                raise CheckpointError(f"{index}: weight_map must be an object that names a file for each tensor")
            files = sorted(set(weight_map.values()))
        self._directory = directory
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        for file in files:
            if Path(file).name != file:
                raise CheckpointError(f"{index}: weight_map names {file!r}, which is not a file beside it")
            if not (directory / file).exists():
                raise CheckpointError(f"{directory} lacks {file}: download the checkpoint again, with its safetensors")
            try:
                self._files[file] = safe_open(directory / file, framework="pt")
                for name in self._files[file].keys():  # noqa: SIM118
                    if name in self._where:
                        raise CheckpointError(f"{directory}: {name} is both in {self._where[name]} and in {file}")
                    self._where[name] = file
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{directory / file} is damaged: {error}") from error
        for name, file in (weight_map or {}).items():
            if self._where.get(name) != file:
                raise CheckpointError(f"{index} says that {name} is in {file}, which has no such tensor")

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.slice(name, tuple(range(n) for n in self.shape(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors`."""
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def slice(self, name: str, ranges: Ranges) -> torch.Tensor:
        """See `Tensors`."""
        file = self._files[self._where[name]]
        try:
            if all(len(r) == n for r, n in zip(ranges, self.shape(name), strict=True)):
                whole: torch.Tensor = file.get_tensor(name)
                return whole
            part: torch.Tensor = file.get_slice(name)[tuple(slice(r.start, r.stop) for r in ranges)]
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.where(name)} cannot be read: {error}") from error
        return part

    def where(self, name: str) -> str:
        """See `Tensors`."""
        return f"{self._directory / self._where[name]}: {name}"


class WholeTensors:
    """Tensors of a mapping, which are read whole and then cut."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], source: str = "the checkpoint") -> None:
        """`source`: what errors call it."""
        self._tensors = tensors
        self._source = source

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Tensors`."""
        shape = getattr(self._tensors, "shape", None)
        return tuple(self._tensors[name].shape if shape is None else shape(name))

    def slice(self, name: str, ranges: Ranges) -> torch.Tensor:
        """See `Tensors`."""
        return self._tensors[name][tuple(slice(r.start, r.stop) for r in ranges)]

    def where(self, name: str) -> str:
        """See `Tensors`."""
        return f"{self._source}: {name}"
