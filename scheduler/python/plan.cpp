// What a step executes and what is copied beside it: read-only numpy views of the scheduler's own arrays.
#include <cstdint>
#include <vector>

#include "scheduler/core/memory/host_tier.h"
#include "scheduler/python/arrays.h"
#include "scheduler/python/bindings.h"

namespace tokenspeed {

namespace py = pybind11;

namespace {

template <class T>
auto column(std::vector<T> StepPlan::* member) {
    return [member](const py::object& self) {
        return read_only_view((*self.cast<const PlanView&>().plan).*member, self, py::dtype::of<T>());
    };
}

auto scalar(std::int64_t StepPlan::* member) {
    return [member](const PlanView& self) { return (*self.plan).*member; };
}

template <class T>
auto copy_column(std::vector<T> CopyBatch::* member) {
    return [member](const py::object& self) {
        return read_only_view(self.cast<const CopyBatch&>().*member, self, py::dtype::of<T>());
    };
}

void bind_copies(py::module_& m) {
    using Batch = CopyBatch;
    auto kinds = py::class_<CopyKind>(m, "CopyKind");
    kinds.attr("SPILL") = static_cast<int>(CopyKind::Spill);
    kinds.attr("FETCH") = static_cast<int>(CopyKind::Fetch);
    py::class_<Batch>(m, "CopyBatch")
        .def("__len__", [](const Batch& self) { return self.ids.size(); })
        .def_property_readonly("ids", copy_column(&Batch::ids))
        .def_property_readonly("kinds", copy_column(&Batch::kinds))
        .def_property_readonly("blocks", copy_column(&Batch::blocks))
        .def_property_readonly("host_pages", copy_column(&Batch::host_pages))
        .def_property_readonly("num_tokens", copy_column(&Batch::num_tokens));
}

}  // namespace

void bind_plan(py::module_& m) {
    using Plan = StepPlan;
    py::class_<PlanView>(m, "StepPlan")
        .def_property_readonly("step", scalar(&Plan::step))
        .def_property_readonly("rows", [](const PlanView& self) { return self.plan->slots.size(); })
        .def_property_readonly("tokens", scalar(&Plan::tokens))
        .def_property_readonly("decode_rows", scalar(&Plan::decode_rows))
        .def_property_readonly("sampling_rows", scalar(&Plan::sampling_rows))
        .def_property_readonly("context_tokens", scalar(&Plan::context_tokens))
        .def_property_readonly("attention_pairs", scalar(&Plan::attention_pairs))
        .def_property_readonly("request_ids", column(&Plan::request_ids))
        .def_property_readonly("slots", column(&Plan::slots))
        .def_property_readonly("start", column(&Plan::start))
        .def_property_readonly("num_tokens", column(&Plan::num_tokens))
        .def_property_readonly("outputs", column(&Plan::outputs))
        .def_property_readonly("input_ids", column(&Plan::input_ids))
        .def_property_readonly("positions", column(&Plan::positions))
        .def_property_readonly("table_slots", column(&Plan::table_slots))
        .def_property_readonly("table_index", column(&Plan::table_index))
        .def_property_readonly("table_blocks", column(&Plan::table_blocks));
    bind_copies(m);
}

}  // namespace tokenspeed
