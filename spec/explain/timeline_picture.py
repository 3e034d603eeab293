"""A timeline as an SVG picture: time goes down, each individual has a lane with its state as a coloured bar."""

from __future__ import annotations

from html import escape

from ..language.spec import Spec
from .timeline import Edit, Moment, Timeline, in_words
from .timeline_page import Lanes

COLOURS = (
    "#e4e4de", "#c3dcfa", "#bfe8cd", "#f9d6ad", "#dccdf5", "#f7c5cd", "#c2e8eb", "#efe7a0", "#d0e0b8", "#eac8e5",
)  # fmt: skip
INK, SOFT, LINE, BAD = "#1c1d20", "#6a6d75", "#dcdcd6", "#b3261e"
LEFT, TOP, ROW_GAP, LINE_HEIGHT, CHARACTER = 20, 20, 12, 16, 6.8
LANE_MIN, BAR = 96, 8


def timeline_picture(timeline: Timeline, spec: Spec) -> str:
    """The picture; the same timeline gives the same bytes."""
    return _Picture(timeline, spec).svg()


class _Picture:
    def __init__(self, timeline: Timeline, spec: Spec) -> None:
        self.timeline = timeline
        self.lanes = Lanes(spec, timeline)
        self.shown = [x for x in self.lanes.shown if x and any(self._texts(m, x) for m in timeline.moments)]
        events = [self._event_lines(n, m) for n, m in enumerate(timeline.moments, 1)]
        self.event_width = 24 + max([len(line) for lines in events for line, _ in lines] or [1]) * CHARACTER
        self.widths = {x: self._lane_width(x) for x in self.shown}
        self.out: list[str] = []

    def _event_lines(self, number: int, moment: Moment) -> list[tuple[str, str]]:
        lines = [(f"{number:2} {moment.event}", INK)]
        if moment.actor != "scheduler":
            lines.append((f"   by the {moment.actor}", SOFT))
        lines += [(f"   no guard “{g}”", BAD) for g in moment.ignored_guards]
        return lines + [(f"   no effect on {v}", BAD) for v in moment.omitted_effects]

    def _texts(self, moment: Moment, lane: str) -> list[Edit]:
        return [e for e in moment.edits if e.owner == lane and not e.counted]

    def _lane_width(self, lane: str) -> float:
        longest = max(len(in_words(e)) for m in self.timeline.moments for e in self._texts(m, lane))
        return max(LANE_MIN, 28 + longest * CHARACTER)

    def _text(self, x: float, y: float, text: str, colour: str = INK, extra: str = "") -> None:
        self.out.append(f'<text x="{x:g}" y="{y:g}" fill="{colour}"{extra}>{escape(text)}</text>')

    def svg(self) -> str:
        """Draw everything row by row, then put the frame around it."""
        width = LEFT + self.event_width + sum(self.widths.values()) + LEFT
        y = float(TOP + 14)
        self._text(LEFT, y, "event", SOFT)
        x = LEFT + self.event_width
        for lane in self.shown:
            self._text(x + BAR + 8, y, lane, INK, ' font-weight="bold"')
            x += self.widths[lane]
        y += 10
        for number, (moment, states) in enumerate(zip(self.timeline.moments, self.lanes.states(), strict=True), 1):
            y = self._row(y, width, number, moment, states)
        y = self._end(y, width)
        title = escape(f"{self.timeline.violated}: {', '.join(m.event for m in self.timeline.moments)}")
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {y:g}" width="{width:g}" height="{y:g}" '
            f'role="img" font-family="ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="11.3" '
            f'xml:space="preserve">\n<title>{title}</title>\n'
            f'<rect width="{width:g}" height="{y:g}" rx="8" fill="#ffffff" stroke="{LINE}"/>'
        )
        return "\n".join([head, *self.out, "</svg>"]) + "\n"

    def _row(self, y: float, width: float, number: int, moment: Moment, states: dict[str, str]) -> float:
        event = self._event_lines(number, moment)
        lines = max([len(event), *[len(self._texts(moment, x)) for x in self.shown]])
        height = lines * LINE_HEIGHT + ROW_GAP
        self.out.append(f'<path d="M{LEFT:g} {y:g}H{width - LEFT:g}" stroke="{LINE}"/>')
        for i, (text, colour) in enumerate(event):
            self._text(LEFT, y + 18 + i * LINE_HEIGHT, text, colour)
        x = LEFT + self.event_width
        for lane in self.shown:
            if lane in states:
                fill = COLOURS[self.lanes.colours[states[lane]]]
                self.out.append(f'<rect x="{x:g}" y="{y:g}" width="{BAR}" height="{height:g}" fill="{fill}"/>')
            for i, edit in enumerate(self._texts(moment, lane)):
                at = y + 18 + i * LINE_HEIGHT
                words = in_words(edit)
                if edit.is_state:
                    fill, length = COLOURS[self.lanes.colours[edit.new]], len(words) * CHARACTER + 10
                    self.out.append(
                        f'<rect x="{x + BAR + 4:g}" y="{at - 12:g}" width="{length:g}" height="16" rx="4" '
                        f'fill="{fill}"/>'
                    )
                style = ' font-style="italic"' if edit.ghost else ""
                self._text(x + BAR + 8, at, words, SOFT if edit.ghost else INK, style)
            x += self.widths[lane]
        return y + height

    def _end(self, y: float, width: float) -> float:
        """The verdict below the last event."""
        self.out.append(f'<path d="M{LEFT:g} {y:g}H{width - LEFT:g}" stroke="{BAD}" stroke-width="2"/>')
        y += 20
        self._text(LEFT, y, f"VIOLATED {self.timeline.violated}", BAD, ' font-weight="bold"')
        for value in self.timeline.values[:4]:
            y += LINE_HEIGHT
            self._text(LEFT + 3 * CHARACTER, y, value, SOFT)
        return y + 18


__all__ = ["timeline_picture"]
