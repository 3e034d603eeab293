"""Every historic bug of the museum shows up when it is put back, and only then; the page and its pictures are fresh."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import pytest

from tokenspeed.spec.commands.museum_command import list_bugs, show_bug
from tokenspeed.spec.museum import BUGS, Bug, Exhibit, exhibit
from tokenspeed.spec.museum.page import museum_files
from tokenspeed.spec.search.explore import search
from tokenspeed.spec.search.variants import check_labels
from tokenspeed.spec.system import SPEC

ROOT = Path(__file__).resolve().parents[2]

pages = cache(museum_files)


@cache
def shown(bug: Bug) -> Exhibit:
    return exhibit(SPEC, bug)


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.name)
def test_bug_has_a_timeline_that_ends_in_its_property(bug: Bug) -> None:
    timeline = shown(bug).timeline
    assert timeline.violated == bug.property and timeline.conjunct and timeline.meaning
    assert timeline.moments
    assert not any(m.event.split("(")[0] in bug.aside for m in timeline.moments)
    out_of_the_ordinary = [m for m in timeline.moments if m.ignored_guards or m.omitted_effects]
    assert out_of_the_ordinary or set(bug.left_out) <= set(SPEC.transitions), "what is left out plays no part"


@pytest.mark.parametrize("bug", [b for b in BUGS if b.property in SPEC.properties], ids=lambda b: b.name)
def test_nothing_happens_with_the_specification_as_it_is(bug: Bug) -> None:
    """The same search, far enough to have found the bug, finds nothing when nothing but the story is restricted."""
    found = shown(bug).found
    assert not search(found.instance, bug.aside, max_states=20 * found.states, only=bug.property).violated


def test_bugs_are_distinct_and_cite_where_they_come_from() -> None:
    assert len({b.name for b in BUGS}) == len({b.title for b in BUGS}) == len(BUGS)
    assert len({(b.left_out, b.property, b.aside) for b in BUGS}) == len(BUGS)
    for bug in BUGS:
        check_labels(SPEC, (*bug.left_out, *bug.aside))
        assert bug.sources and all(s.url.startswith("https://github.com/") for s in bug.sources)
        assert all(text.endswith((".", ".)")) for text in (bug.wrong, bug.here))


def test_committed_museum_is_fresh() -> None:
    files = pages(SPEC)
    for name, text in files.items():
        assert (ROOT / name).read_text() == text, f"{name}: run `make generated`"
    pictures = {str(p.relative_to(ROOT)) for p in (ROOT / "docs/museum").iterdir()}
    assert pictures == set(files) - {"docs/museum.md"}


def test_pictures_are_well_formed_and_draw_every_event() -> None:
    for bug in BUGS:
        picture = ElementTree.fromstring(pages(SPEC)[f"docs/museum/{bug.name}.svg"])
        texts = [t.text or "" for t in picture.iter("{http://www.w3.org/2000/svg}text")]
        for number, moment in enumerate(shown(bug).timeline.moments, 1):
            assert f"{number:2} {moment.event}" in texts
        assert f"VIOLATED {bug.property}" in texts


def test_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert list_bugs(json_output=False) == 0
    listed = capsys.readouterr().out
    assert all(b.name in listed for b in BUGS)
    page = tmp_path / "bug.html"
    assert show_bug(BUGS[0].name, html=page) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"VIOLATED {BUGS[0].property}" in printed and BUGS[0].sources[0].url in printed
    assert BUGS[0].title in page.read_text()


def test_unknown_bug_suggests_close_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_bug("freed-under-overlab") == 2
    assert "freed-under-overlap" in capsys.readouterr().err
