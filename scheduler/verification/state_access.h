// How `tokenspeed verify lockstep` reaches the state of the machine that serves: a table of functions, since the
// explorer is another extension module. Nothing else may use it: `restore` writes any state, reachable or not.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tokenspeed {

// One transition with arguments, and what the specification answers: the number of the first false guard, 0 for none.
struct Proposal {
    std::uint8_t transition;
    std::array<std::int8_t, 4> arguments;
    bool explored;  // whether the state that it leads to belongs to the instance (the machine does not look at it)
    std::uint16_t guard;
};

// States are given as one byte for each value, in the order of spec/search/state_order.py.
struct StateAccess {
    const char* spec_hash;
    std::uint16_t bad_index;  // the number of the answer that an argument names nobody
    std::uint16_t constants;  // how many `create` takes
    std::uint16_t sorts;

    // A machine in its initial state; constants and population are in the order of the specification.
    void* (*create)(const std::int64_t* constants, const std::int32_t* population);
    void (*destroy)(void* machine);
    std::size_t (*values)(const void* machine);  // how many bytes a state has
    // Puts the machine into a state, to which `reaches` and `take` return.
    void (*restore)(void* machine, const std::int8_t* state);
    void (*save)(const void* machine, std::int8_t* state);
    // The first value that differs from the state, or -1; `slots` if the tables hold something else besides.
    std::int32_t (*difference)(const void* machine, const std::int8_t* state);
    // Makes proposals until one is accepted or answered otherwise than it says; returns its number (count if there is
    // none) and stores what was answered.
    std::size_t (*propose)(void* machine, const Proposal* proposals, std::size_t count, std::uint16_t* answer);
    // Makes one proposal in the state that was restored, and goes back. Whether it was accepted, and all memory was as
    // in the state `after`.
    bool (*reaches)(void* machine, const Proposal* proposal, const std::int8_t* after);
    // Makes one proposal in the state that was restored, stores what was answered and all values afterwards, and goes
    // back. False if something changed that is no value of a state, or is out of a byte's bounds.
    bool (*take)(void* machine, const Proposal* proposal, std::uint16_t* answer, std::int8_t* after);
};

// The name under which `_core.STATE_ACCESS` holds the table.
inline constexpr const char* kStateAccessName = "tokenspeed.state_access";

#if !TOKENSPEED_CHECKED
extern const StateAccess kStateAccess;
#endif

}  // namespace tokenspeed
