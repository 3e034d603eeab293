// Policies in Python: a subclass overrides what it wants to decide otherwise.
#include "scheduler/python/policy.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>

#include "scheduler/core/contract/config.h"
#include "scheduler/python/bindings.h"

namespace tokenspeed {

namespace py = pybind11;

namespace {

// What a policy raises is counted and answered by the default one; an interrupt from the keyboard is raised again when
// the scheduler has returned.
template <class Call>
auto interruptible(Call&& call) {
    try {
        return call();
    } catch (const pybind11::error_already_set& error) {
        if (error.matches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
        throw;
    }
}

class PolicyInPython final : public Policy {
  public:
    std::pair<std::int64_t, std::int64_t> place(const RequestView& request) const override {
        using Place = std::pair<std::int64_t, std::int64_t>;
        return interruptible([&]() -> Place { PYBIND11_OVERRIDE(Place, Policy, place, request); });
    }
    double victim_cost(const RequestView& request, const SchedulerConfig& config) const override {
        return interruptible([&]() -> double { PYBIND11_OVERRIDE(double, Policy, victim_cost, request, config); });
    }
    std::int64_t retention(const PageView& page) const override {
        return interruptible([&]() -> std::int64_t { PYBIND11_OVERRIDE(std::int64_t, Policy, retention, page); });
    }
    bool fetch(const CopyView& copy) const override {
        return interruptible([&]() -> bool { PYBIND11_OVERRIDE(bool, Policy, fetch, copy); });
    }
    bool spill(const PageView& page, const CopyView& copy) const override {
        return interruptible([&]() -> bool { PYBIND11_OVERRIDE(bool, Policy, spill, page, copy); });
    }
    bool wait_for_prefix(std::int64_t own_tokens, std::int64_t remaining_tokens) const override {
        return interruptible(
            [&]() -> bool { PYBIND11_OVERRIDE(bool, Policy, wait_for_prefix, own_tokens, remaining_tokens); });
    }
};

}  // namespace

std::shared_ptr<const Policy> policy_of(const pybind11::object& given) {
    if (pybind11::isinstance<pybind11::str>(given)) {
        const auto name = given.cast<std::string>();
        std::shared_ptr<const Policy> policy = make_policy(name);
        if (policy == nullptr) {
            throw pybind11::value_error("policy is '" + name + "'; known policies: " + policy_names());
        }
        return policy;
    }
    if (!pybind11::isinstance<Policy>(given)) {
        throw pybind11::type_error("policy is " + pybind11::repr(given).cast<std::string>() + "; it must be a name (" +
                                   policy_names() + ") or an instance of a subclass of Policy");
    }
    auto held = std::make_shared<pybind11::object>(given);
    const auto* policy = given.cast<const Policy*>();
    return {std::move(held), policy};
}

void bind_policy(py::module_& m) {
    py::class_<RequestView>(m, "RequestView")
        .def_readonly("request_id", &RequestView::request_id)
        .def_readonly("arrival", &RequestView::arrival)
        .def_readonly("priority", &RequestView::priority)
        .def_property_readonly("deadline",
                               [](const RequestView& self) -> py::object {
                                   if (self.deadline == kNoDeadline) return py::none();
                                   return py::int_(self.deadline);
                               })
        .def_readonly("prompt_tokens", &RequestView::prompt_tokens)
        .def_readonly("known_tokens", &RequestView::known_tokens)
        .def_readonly("computed_tokens", &RequestView::computed_tokens)
        .def_readonly("limit_tokens", &RequestView::limit_tokens)
        .def_readonly("blocks", &RequestView::blocks)
        .def_readonly("shared_blocks", &RequestView::shared_blocks)
        .def_readonly("retractions", &RequestView::retractions);
    py::class_<PageView>(m, "PageView")
        .def_readonly("position", &PageView::position)
        .def_readonly("uses", &PageView::uses)
        .def_readonly("owner_pages", &PageView::owner_pages)
        .def_readonly("owner_hits", &PageView::owner_hits)
        .def_readonly("owner_returns", &PageView::owner_returns);
    py::class_<CopyView>(m, "CopyView")
        .def_readonly("tokens", &CopyView::tokens)
        .def_readonly("copy_s", &CopyView::copy_s)
        .def_readonly("queued_s", &CopyView::queued_s)
        .def_readonly("recompute_s", &CopyView::recompute_s)
        .def_readonly("urgent", &CopyView::urgent);
    py::class_<Policy, PolicyInPython>(m, "Policy")
        .def(py::init<>())
        .def("place", &Policy::place, py::arg("request"))
        .def("victim_cost", &Policy::victim_cost, py::arg("request"), py::arg("config"))
        .def("retention", &Policy::retention, py::arg("page"))
        .def("fetch", &Policy::fetch, py::arg("copy"))
        .def("spill", &Policy::spill, py::arg("page"), py::arg("copy"))
        .def("wait_for_prefix", &Policy::wait_for_prefix, py::arg("own_tokens"), py::arg("remaining_tokens"));
    m.attr("POLICIES") = policy_names();
}

}  // namespace tokenspeed
