// Policies between Python and the scheduler.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "scheduler/core/contract/policy.h"

namespace tokenspeed {

// A policy by name, or an instance of a Python subclass, which is kept alive.
std::shared_ptr<const Policy> policy_of(const pybind11::object& given);

}  // namespace tokenspeed
