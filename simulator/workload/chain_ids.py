"""Ids of prompt blocks, checked: the scheduler needs ids that name prefixes, and wrong ones give wrong hits in silence.

An id that names a prefix can stand behind one other id only. An id of a block's contents alone stands behind many.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..errors import WorkloadError
from .options import BlockIds

START: Final = -1
"""What the first block of a prompt stands behind."""


class ChainIds:
    """The ids of one scope (a session, a whole trace). One look-up for each id that the last prompt did not have."""

    def __init__(self, kind: BlockIds) -> None:
        self._numbers: dict[tuple[int, int], int] | None = {} if kind is BlockIds.CONTENTS else None
        self._parents: dict[int, int] = {}
        self._last: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._last_numbers = self._last

    def accept(self, ids: NDArray[np.int64], where: str) -> NDArray[np.int64]:
        """[n] ids that name prefixes, from the ids of one prompt.

        Raises WorkloadError if `ids` were said to name prefixes and cannot: one stands behind two different ids. The
        ids of a refused prompt are forgotten.
        """
        common = min(len(self._last), len(ids))
        differ = np.flatnonzero(self._last[:common] != ids[:common])
        same = int(differ[0]) if len(differ) else common
        if self._numbers is None:
            self._check(ids, same, where)
            numbers = ids
        else:
            numbers = self._number(ids, same, self._numbers)
        self._last, self._last_numbers = ids, numbers
        return numbers

    def _check(self, ids: NDArray[np.int64], same: int, where: str) -> None:
        parents = self._parents
        parent = int(ids[same - 1]) if same else START
        added: list[int] = []
        for block in ids[same:].tolist():
            known = parents.get(block)
            if known is None:
                parents[block] = parent
                added.append(block)
            elif known != parent:
                for new in added:
                    del parents[new]
                raise WorkloadError(
                    f"{where}: field 'hash_ids' has id {block} {_behind(parent)}, but elsewhere {_behind(known)}: "
                    "these ids do not name prefixes; if they name the contents of blocks, use --block-ids contents"
                )
            parent = block

    def _number(self, ids: NDArray[np.int64], same: int, known: dict[tuple[int, int], int]) -> NDArray[np.int64]:
        numbers = np.empty(len(ids), dtype=np.int64)
        numbers[:same] = self._last_numbers[:same]
        parent = int(numbers[same - 1]) if same else START
        for place, block in enumerate(ids[same:].tolist(), same):
            parent = known.setdefault((parent, block), len(known))
            numbers[place] = parent
        return numbers


def check_chains(hashes: list[NDArray[np.uint64]], name: str) -> None:
    """Raise WorkloadError if a chain hash stands behind two different ones in `hashes`, one array for each call."""
    longest: dict[tuple[int, int], NDArray[np.uint64]] = {}
    for array in hashes:  # prompts that extend one another are views of one array
        key = (array.__array_interface__["data"][0], array.strides[0])
        if len(array) > len(longest.get(key, ())):
            longest[key] = array
    if not longest:
        return
    blocks = np.concatenate(list(longest.values()))
    parents = np.concatenate([np.concatenate([np.zeros(1, dtype=np.uint64), a[:-1]]) for a in longest.values()])
    order = np.lexsort((parents, blocks))
    blocks, parents = blocks[order], parents[order]
    wrong = np.flatnonzero((blocks[1:] == blocks[:-1]) & (parents[1:] != parents[:-1]))
    if len(wrong):
        raise WorkloadError(
            f"workload {name!r}: page hash {int(blocks[wrong[0]])} stands behind two different hashes; page_hashes "
            "must be chain hashes, which name all tokens from the start of the prompt"
        )


def _behind(parent: int) -> str:
    return "at the start of a prompt" if parent == START else f"behind id {parent}"
