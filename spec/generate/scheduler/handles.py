"""Generates handles.h: move-only handles whose type is the state, with a method for each legal edge and no other."""

from __future__ import annotations

from ...language.expressions import BOOL, SpecError
from ...language.printing import camel
from ...language.spec import Enum, Move, Parameter, Sort, Spec, Transition, Variable
from ..cpp import header

PREAMBLE = """\
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <tuple>
#include <utility>
#include <variant>

#include "scheduler/generated/machine.h"

// For C++ drivers and tests that follow one individual through its life: a wrong order of calls does not compile.
// The scheduler itself keeps ids in tables that hold individuals of many states at once, and calls the machine.
//
// A handle is the id of an individual that the machine has in the state that the handle's type names. Handles are
// moved, never copied; a transition consumes the handle and gives the handle of the next state, or the same handle and
// the guard that refused. A handle of the initial state may be dropped; any other must be followed to there or left to
// somebody else with `leave`, and in the checked build dropping it ends the program.
//
// Claim one handle for an individual. A second one, or a transition taken behind a handle's back, leaves a stale type:
// the machine's guards refuse it then as they refuse everybody, so that nothing breaks but the driver's own plan.
namespace tokenspeed {

// A transition's outcome: the handles of the next states, or the guard that refused and the handles as they were.
template <class Next, class Same>
class [[nodiscard]] Outcome {
 public:
  explicit Outcome(Next next) : value_(std::in_place_index<0>, std::move(next)) {}
  Outcome(Guard guard, Same same) : guard_(guard), value_(std::in_place_index<1>, std::move(same)) {}

  explicit operator bool() const { return guard_ == Guard::none; }
  // Guard::none if the transition was taken.
  Guard guard() const { return guard_; }
  // After a transition that was taken; throws std::bad_variant_access after one that was refused.
  [[nodiscard]] Next next() && { return std::get<0>(std::move(value_)); }
  // After a transition that was refused; throws std::bad_variant_access after one that was taken.
  [[nodiscard]] Same same() && { return std::get<1>(std::move(value_)); }

 private:
  Guard guard_ = Guard::none;
  std::variant<Next, Same> value_;
};

// What all handles share. `Droppable`: nothing is lost when the handle ends.
template <class Id, bool Droppable>
class Handle {
 public:
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  Id id() const { return id_; }
  // Gives the handle up: somebody else keeps the id, and the individual stays in its state.
  [[nodiscard]] Id leave() && { return std::exchange(id_, kNone); }

 protected:
  explicit Handle(Id id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, kNone)) {}
  Handle& operator=(Handle&& other) noexcept {
    check_dropped();
    id_ = std::exchange(other.id_, kNone);
    return *this;
  }
  ~Handle() { check_dropped(); }

 private:
  void check_dropped() const {
#if TOKENSPEED_CHECKED
    if (!Droppable && id_ != kNone) {
      const int id = static_cast<int>(id_);
      std::fprintf(stderr, "a live handle of individual %d was dropped; move it on or call leave()\\n", id);
      std::abort();
    }
#endif
  }

  Id id_;
};
"""


class HandleGenerator:
    """Writes handles.h for one specification: a handle for every sort that has a state machine."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.machines: dict[str, Variable] = {}
        for transition in spec.transitions.values():
            for move in transition.moves:
                self.machines.setdefault(move.machine.sorts[0].name, move.machine)

    def handles_h(self) -> str:
        """The whole file."""
        out = [header(self.spec, "Handles that have methods for legal transitions only."), PREAMBLE]
        out += [f"template <{v.type}>\nclass {sort}Handle;" for sort, v in self.machines.items()]
        out.append(
            "\n// Makes handles of individuals whose state was just checked or written.\nclass HandleMaker {\n"
            "  template <class H, class Id>\n  static H make(Id id) {\n    return H(id);\n  }"
        )
        out += [f"  template <{v.type}>\n  friend class {sort}Handle;" for sort, v in self.machines.items()]
        out.append("};\n")
        bodies: list[str] = []
        for sort, variable in self.machines.items():
            for value in self._enum(variable).values:
                out.append(self._handle(self.spec.sorts[sort], variable, value, bodies))
        out += bodies
        out.append("#if !TOKENSPEED_CHECKED  // a handle costs what an id costs")
        for sort, variable in self.machines.items():
            one = f"{sort}Handle<{variable.type}::{camel(self._enum(variable).values[0])}>"
            out.append(f"static_assert(sizeof({one}) == sizeof({sort}Id));")
        return "\n".join([*out, "#endif\n", "}  // namespace tokenspeed\n"])

    def _enum(self, variable: Variable) -> Enum:
        return self.spec.enums[variable.type]

    def _type(self, variable: Variable, value: str) -> str:
        return f"{variable.sorts[0].name}Handle<{variable.type}::{camel(value)}>"

    def _handle(self, sort: Sort, variable: Variable, value: str, bodies: list[str]) -> str:
        """The class for one state; the definitions of its methods go to `bodies`, after all classes."""
        name, id_, letter = self._type(variable, value), f"{sort.name}Id", sort.letter
        base = f"Handle<{id_}, {str(variable.init.args[1] == value).lower()}>"
        out = [f"// {self._enum(variable).docs[value]}", f"template <>\nclass {name} : public {base} {{", " public:"]
        out.append(f"  {sort.name}Handle({sort.name}Handle&&) noexcept = default;")
        out.append(f"  {sort.name}Handle& operator=({sort.name}Handle&&) noexcept = default;")
        state = f"machine.{variable.name}({letter}) == {variable.type}::{camel(value)}"
        inside = f"{letter} >= 0 && {letter} < machine.{sort.name.lower()}_count()"
        out.append("  // The individual's handle, or nothing if the machine has it in another state or not at all.")
        out.append(
            f"  [[nodiscard]] static std::optional<{sort.name}Handle> claim(const Machine& machine, {id_} {letter}) {{"
        )
        out.append(f"    if ({inside} && {state}) return {sort.name}Handle({letter});")
        out.append("    return std::nullopt;\n  }")
        for transition in self.spec.transitions.values():
            moved = self._moved(transition)
            if not moved:
                continue
            own, move = next(iter(moved.items()))
            if move.machine is variable and value in move.sources:
                declaration, definition = self._method(transition, moved, own, value)
                out += [f"  // {transition.doc}", declaration]
                bodies.append(definition)
        out.append(
            f"\n private:\n  friend class HandleMaker;\n  explicit {sort.name}Handle({id_} id) : Handle(id) {{}}\n}};\n"
        )
        return "\n".join(out)

    def _moved(self, transition: Transition) -> dict[str, Move]:
        """Parameter -> the move that it makes, in the order of the parameters."""
        found: dict[str, Move] = {}
        for move in transition.moves:
            written = [e.index[0] for e in transition.effects if e.variable is move.machine]
            if len(written) != 1 or written[0].op != "param":
                raise SpecError(
                    f"{transition.name} moves {move.machine.name} of more than one individual; teach handles"
                )
            found[written[0].args[0]] = move
        return {p.name: found[p.name] for p in transition.parameters if p.name in found}

    def _method(self, t: Transition, moved: dict[str, Move], own: str, value: str) -> tuple[str, str]:
        """Declaration and definition of the method that takes a transition."""
        now = {p: self._type(m.machine, value if p == own else self._source(t, m)) for p, m in moved.items()}
        later = {p: self._type(m.machine, m.target) for p, m in moved.items()}
        result = f"Outcome<{self._tuple([*later.values()])}, {self._tuple([*now.values()])}>"
        taken = ", ".join(
            [f"{now[p.name] if p.name in now else self._plain(p)} {p.name}" for p in t.parameters if p.name != own]
        )
        signature = f"{t.name}(Machine& machine{', ' if taken else ''}{taken}) &&"
        given = ", ".join(
            ("id()" if p.name == own else f"{p.name}.id()" if p.name in now else p.name) for p in t.parameters
        )
        same = self._make([*now.values()], ["std::move(*this)" if p == own else f"std::move({p})" for p in now])
        ids = ["std::move(*this).leave()" if p == own else f"std::move({p}).leave()" for p in now]
        made = self._make(
            [*later.values()], [f"HandleMaker::make<{later[p]}>({x})" for p, x in zip(now, ids, strict=True)]
        )
        definition = (
            f"inline {result} {now[own]}::{signature} {{\n"
            f"  const Guard guard = machine.apply_{t.name}({given});\n"
            f"  using Taken = {result};\n"
            f"  if (guard != Guard::none) return Taken(guard, {same});\n"
            f"  return Taken({made});\n}}\n"
        )
        return f"  {result} {signature};", definition

    def _source(self, t: Transition, move: Move) -> str:
        if len(move.sources) != 1:
            raise SpecError(f"{t.name} moves a second individual out of one of {move.sources}; teach handles")
        return move.sources[0]

    def _plain(self, p: Parameter) -> str:
        return f"{p.type}Id" if p.type in self.spec.sorts else "bool" if p.type == BOOL else "std::int64_t"

    def _tuple(self, types: list[str]) -> str:
        return types[0] if len(types) == 1 else f"std::tuple<{', '.join(types)}>"

    def _make(self, types: list[str], values: list[str]) -> str:
        return values[0] if len(values) == 1 else f"{self._tuple(types)}({', '.join(values)})"
