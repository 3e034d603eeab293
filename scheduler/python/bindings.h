// The parts of the Python module `_core`, one for each part of the driver contract. `_core.pyi` documents every name.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "scheduler/core/contract/step_plan.h"
#include "scheduler/generated/machine.h"

namespace tokenspeed {

// What Python holds of a step: a plan that is never written to.
struct PlanView {
    std::shared_ptr<const StepPlan> plan;
};

// Constants of the specification that the machine was made with, by name.
pybind11::dict limits_of(const Machine& machine);
// Every variable by name: index -> value, without zeros.
pybind11::dict snapshot_of(const Machine& machine);

void bind_errors(pybind11::module_& m);
void bind_config(pybind11::module_& m);
void bind_plan(pybind11::module_& m);
void bind_policy(pybind11::module_& m);
void bind_scheduler(pybind11::module_& m);
void bind_machine(pybind11::module_& m);

}  // namespace tokenspeed
