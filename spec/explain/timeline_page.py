"""A timeline as one HTML page to step through: a lane for each individual, no network, light and dark, keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from ..language.spec import Spec
from .timeline import Moment, Timeline, in_words

PAGE = Path(__file__).parent / "page"
COLOURS = 10
"""Colours for states that the style sheet has."""


@dataclass(frozen=True)
class Lanes:
    """What of a timeline is drawn: lanes with something in them, and a colour for each state of the machines."""

    spec: Spec
    timeline: Timeline

    @property
    def shown(self) -> list[str]:
        """Individuals with a change or a value; the witnesses of the violation always; "" is the system."""
        timeline = self.timeline
        changed = {e.owner for m in timeline.moments for e in m.edits if not e.counted}
        kept = changed | {e.owner for e in timeline.start} | set(timeline.witnesses.values())
        return [x for x in (*timeline.individuals, "") if x in kept]

    @property
    def colours(self) -> dict[str, int]:
        """State -> number of its colour; each machine starts with the first."""
        return {value: i % COLOURS for enum in self.spec.enums.values() for i, value in enumerate(enum.values)}

    def states(self) -> Iterator[dict[str, str]]:
        """The state of every individual that has one, after each event."""
        now: dict[str, str] = {}
        for v in self.spec.variables.values():
            if v.type in self.spec.enums and len(v.sorts) == 1:
                letter = v.sorts[0].letter
                owners = [x for x in self.timeline.individuals if x.rstrip("0123456789") == letter]
                now |= {x: str(v.init.args[1]) for x in owners if x not in now}
        now |= {e.owner: e.new for e in self.timeline.start if e.is_state}
        for moment in self.timeline.moments:
            now = now | {e.owner: e.new for e in moment.edits if e.is_state}
            yield now


def notes(moment: Moment) -> list[str]:
    """What is out of the ordinary about an event."""
    found = [f"The guard “{g}” would have refused." for g in moment.ignored_guards]
    found += [f"Left out: the effect on {v}." for v in moment.omitted_effects]
    return found + [f"From here on false: {name}." for name in moment.first_false]


def timeline_page(title: str, timeline: Timeline, spec: Spec, introduction: str = "") -> str:
    """The page as text. `introduction`: a sentence or two below the title."""
    lanes = Lanes(spec, timeline)
    moments = [
        {
            "event": m.event,
            "actor": m.actor,
            "meaning": m.meaning,
            "notes": notes(m),
            "edits": [asdict(e) for e in m.edits],
        }
        for m in timeline.moments
    ]
    before = "Every variable has its initial value."
    if timeline.start:
        before = "A state that satisfies every invariant; what is not shown has its initial value."
    data = {
        "lanes": lanes.shown, "colours": lanes.colours, "before": before, "moments": moments,
        "start": [asdict(e) for e in timeline.start],
    }  # fmt: skip
    body = [
        _header(title, introduction, timeline),
        "<main>",
        _controls(len(timeline.moments)),
        '<div class="columns">',
        _table(lanes),
        '<aside class="panel" id="panel" aria-live="polite" aria-label="the event and all values after it"></aside>',
        "</div></main>",
        "<footer><p class='soft'>Keys: <kbd>←</kbd> <kbd>→</kbd> one event back or on, <kbd>Home</kbd> <kbd>End</kbd> "
        "first and last. <em>Italics</em>: ghost variables, which exist in proofs only. The coloured bar in a lane is "
        f"the individual's state. Specification {spec.digest()[:16]}.</p></footer>",
    ]
    embedded = json.dumps(data, ensure_ascii=False, sort_keys=True).replace("</", "<\\/")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{(PAGE / 'timeline.css').read_text()}</style></head>",
            "<body>",
            *body,
            f'<script type="application/json" id="data">{embedded}</script>',
            f"<script>\n{(PAGE / 'timeline.js').read_text()}</script>",
            "</body></html>\n",
        ]
    )


def write_timeline_page(path: Path, title: str, timeline: Timeline, spec: Spec, introduction: str = "") -> None:
    """Write the page to a file. Raises OSError if it cannot be written."""
    path.write_text(timeline_page(title, timeline, spec, introduction), encoding="utf-8")


def _header(title: str, introduction: str, timeline: Timeline) -> str:
    out = [f"<header><h1>{escape(title)}</h1>"]
    if introduction:
        out.append(f'<p class="soft">{escape(introduction)}</p>')
    if timeline.violated:
        out.append('<section class="verdict" aria-label="what is violated">')
        out.append(
            f'<p><span class="name">Violated: {escape(timeline.violated)}.</span> {escape(timeline.meaning)}</p>'
        )
        if timeline.conjunct:
            out.append(f"<p>False: <code>{escape(timeline.conjunct)}</code></p>")
        if timeline.values:
            values = "".join(f"<li><code>{escape(v)}</code></li>" for v in timeline.values)
            out.append(f"<ul>{values}</ul>")
        out.append("</section>")
    return "\n".join([*out, "</header>"])


def _controls(last: int) -> str:
    return (
        '<div class="controls" role="group" aria-label="step through the timeline">'
        '<button id="first" aria-label="before the first event">Start</button>'
        '<button id="back">← Back</button><button id="on">On →</button>'
        '<button id="last" aria-label="after the last event">End</button><button id="play">Play</button>'
        f'<input type="range" id="slider" min="0" max="{last}" value="{last}" aria-label="event">'
        '<span id="place" class="soft"></span><button id="theme" style="margin-left:auto">Light / dark</button></div>'
    )


def _table(lanes: Lanes) -> str:
    shown, colours = lanes.shown, lanes.colours
    heads = "".join(f'<th scope="col">{escape(x) or "system"}</th>' for x in shown)
    out = [
        '<div class="lanes" tabindex="0" aria-label="timeline"><table><caption>One row for each event, one lane for '
        f'each individual</caption><thead><tr><th scope="col">event</th>{heads}</tr></thead><tbody>'
    ]
    for number, (moment, states) in enumerate(zip(lanes.timeline.moments, lanes.states(), strict=True), 1):
        kind = "" if moment.actor == "scheduler" else " other"
        row = f'<span class="number">{number}</span><code>{escape(moment.event)}</code> '
        row += f'<span class="actor{kind}">{escape(moment.actor)}</span>'
        marks = [f"without the guard “{g}”" for g in moment.ignored_guards]
        marks += [f"without the effect on {v}" for v in moment.omitted_effects]
        row += "".join(f'<span class="note">{escape(x)}</span>' for x in marks)
        cells = [_cell(lanes, x, moment, states.get(x), colours) for x in shown]
        out.append(f'<tr><th scope="row">{row}</th>{"".join(cells)}</tr>')
    return "\n".join([*out, "</tbody></table></div>"])


def _cell(lanes: Lanes, lane: str, moment: Moment, state: str | None, colours: dict[str, int]) -> str:
    bar = f'<span class="bar c{colours[state]}" title="{state}"></span>' if state is not None else ""
    chips = []
    for edit in moment.edits:
        if edit.owner == lane and edit.is_state:
            chips.append(
                f'<span class="edit"><span class="state c{colours[edit.new]}">{escape(edit.new)}</span></span>'
            )
        elif edit.owner == lane and not edit.counted:
            kind = "edit ghost" if edit.ghost else "edit"
            chips.append(f'<span class="{kind}">{escape(in_words(edit))}</span>')
    return f"<td>{bar}{''.join(chips)}</td>"


__all__ = ["Lanes", "notes", "timeline_page", "write_timeline_page"]
