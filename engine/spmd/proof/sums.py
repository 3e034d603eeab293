"""Rows of activations as formal sums of terms, interned: equal sums are the same number."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product

from ..derivation import Box, Rule, box_text

Key = tuple[object, ...]
"""What a term is: which function was applied to which rows. Different keys are different, independent values."""
Term = tuple[Key, Box]
"""A key and the part of it; an empty box is all of it."""


class Sums:
    """The sums of one symbolic run. A sum is an integer; 0 is the empty one."""

    def __init__(self, ignored: frozenset[Rule] = frozenset()) -> None:
        self._once = Rule.EACH_PART_ONCE not in ignored
        self._numbers: dict[frozenset[tuple[Term, int]], int] = {}
        self._contents: list[Mapping[Term, int]] = []
        self._added: dict[tuple[int, ...], int] = {}
        self.zero = self._intern({})

    def _intern(self, content: Mapping[Term, int]) -> int:
        key = frozenset(content.items())
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._contents)
            self._contents.append(content)
        return number

    def terms(self, number: int) -> Mapping[Term, int]:
        """The terms of a sum with their coefficients."""
        return self._contents[number]

    def of(self, terms: Iterable[Term]) -> int:
        """A sum of these terms; parts that make up a whole become it."""
        return self._intern(self._settled(Counter(terms)))

    def completed(self, number: int) -> int:
        """The sum with every part taken for the whole: what would be, if missing parts did not matter."""
        return self._intern({(key, ()): count for (key, _), count in self.terms(number).items()})

    def add(self, *numbers: int) -> int:
        """The sum of sums."""
        number = self._added.get(numbers)
        if number is None:
            total: Counter[Term] = Counter()
            for part in numbers:
                total.update(self._contents[part])
            number = self._added[numbers] = self._intern(self._settled(total))
        return number

    def _settled(self, total: Mapping[Term, int]) -> Mapping[Term, int]:
        parts: dict[Key, list[tuple[Box, int]]] = {}
        for (key, box), count in total.items():
            if box:
                parts.setdefault(key, []).append((box, count))
        if not parts:
            return self._counted(total)
        settled = {term: count for term, count in total.items() if not term[1]}
        for key, boxes in parts.items():
            times = self._times(boxes)
            if times is None:
                settled.update({(key, box): count for box, count in boxes})
            elif times:
                settled[key, ()] = settled.get((key, ()), 0) + times
        return self._counted(settled)

    def _counted(self, total: Mapping[Term, int]) -> Mapping[Term, int]:
        if not self._once:
            return dict.fromkeys(total, 1)
        return total

    def _times(self, boxes: list[tuple[Box, int]]) -> int | None:
        counts = coverage(tuple(boxes))
        if not self._once:
            counts = frozenset(min(count, 1) for count in counts)
        return next(iter(counts)) if len(counts) == 1 else None


@lru_cache(maxsize=4096)
def coverage(boxes: tuple[tuple[Box, int], ...]) -> frozenset[int]:
    """How often the cells of the whole are covered by these parts; {1} if they tile it."""
    first = boxes[0][0]
    if any([(d[0], d[3]) for d in box] != [(d[0], d[3]) for d in first] for box, _ in boxes):
        return frozenset({0, 1})  # cut along other dimensions: parts that do not belong together
    edges = [
        sorted({0, size} | {edge for box, _ in boxes for edge in box[axis][1:3]})
        for axis, (_, _, _, size) in enumerate(first)
    ]
    counts = set()
    for cell in product(*(range(len(edge) - 1) for edge in edges)):
        corner = [edges[axis][place] for axis, place in enumerate(cell)]
        counts.add(
            sum(count for box, count in boxes if all(d[1] <= low < d[2] for d, low in zip(box, corner, strict=True)))
        )
    return frozenset(counts)


def difference(wanted: Mapping[Term, int], found: Mapping[Term, int], limit: int = 4) -> str:
    """What one sum lacks of another and what it has too much, in words."""
    texts = []
    for term in [*wanted, *(term for term in found if term not in wanted)]:
        want, have = wanted.get(term, 0), found.get(term, 0)
        if want > have:
            texts.append(f"lacks {_name(term)}" + (f" ({have} of {want} times)" if have else ""))
        elif have > want:
            times = f"{have} times instead of {want}: " if want else ""
            texts.append(f"has {times}{_name(term)}")
    rest = f", and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest


def _name(term: Term) -> str:
    key, box = term
    words = [part for part in key if isinstance(part, str)]
    return " ".join(words) + box_text(box)
