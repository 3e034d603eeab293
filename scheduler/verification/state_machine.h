// The compiled machine for `verify lockstep --through-python`: proposals in states that are given as bytes, many at
// once. See state_access.h for the order of a state's values.
#pragma once

#include <pybind11/pybind11.h>

namespace tokenspeed {

void bind_state_machine(pybind11::module_& m);

}  // namespace tokenspeed
