// Capacities, limits and cost figures, by keyword.
#include "scheduler/core/contract/config.h"

#include <cstddef>
#include <string>
#include <type_traits>

#include "scheduler/python/bindings.h"

namespace tokenspeed {

namespace py = pybind11;

namespace {

template <class T>
T value_of(py::handle given, const char* field) {
    py::detail::make_caster<T> caster;
    if (caster.load(given, true)) return py::detail::cast_op<T>(caster);
    const char* wanted = std::is_same_v<T, bool> ? "a bool"
                         : std::is_integral_v<T> ? "an integer of 32 bits"
                                                 : "a number";
    throw py::type_error(std::string(field) + " is " + py::repr(given).cast<std::string>() + "; it must be " + wanted);
}

SchedulerConfig config_of(const py::kwargs& given) {
    SchedulerConfig config;
    std::size_t used = 0;
    SchedulerConfig::visit([&](const char* name, auto member) {
        if (!given.contains(name)) return;
        using T = std::remove_reference_t<decltype(config.*member)>;
        config.*member = value_of<T>(given[name], name);
        ++used;
    });
    if (used != given.size()) {
        std::string known;
        for (const auto& [name, value] : given) {
            bool found = false;
            known.clear();
            SchedulerConfig::visit([&](const char* field, auto) {
                found = found || py::str(field).equal(name);
                known += (known.empty() ? "" : ", ") + std::string(field);
            });
            if (!found) {
                throw py::type_error("SchedulerConfig has no field " + py::repr(name).cast<std::string>() +
                                     "; its fields: " + known);
            }
        }
    }
    if (!given.contains("num_blocks"))
        throw py::type_error("SchedulerConfig needs num_blocks, the KV blocks of the pool");
    config.validate();
    return config;
}

}  // namespace

void bind_config(py::module_& m) {
    auto config = py::class_<SchedulerConfig>(m, "SchedulerConfig")
                      .def(py::init(&config_of))
                      .def("recompute_s", &SchedulerConfig::recompute_s, py::arg("start"), py::arg("tokens"))
                      .def("copy_s", &SchedulerConfig::copy_s, py::arg("tokens"));
    SchedulerConfig::visit([&config](const char* name, auto member) { config.def_readonly(name, member); });
}

}  // namespace tokenspeed
