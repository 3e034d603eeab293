// The typed errors of the driver contract.
#include "scheduler/core/contract/errors.h"

#include <exception>

#include "scheduler/python/bindings.h"

namespace tokenspeed {

void bind_errors(pybind11::module_& m) {
    const auto base = pybind11::register_exception<SchedulerError>(m, "SchedulerError", PyExc_RuntimeError);
    pybind11::register_exception<UnknownRequest>(m, "UnknownRequest", base);
    pybind11::register_exception<DuplicateRequest>(m, "DuplicateRequest", base);
    pybind11::register_exception<BadRequest>(m, "BadRequest",
                                             pybind11::make_tuple(base, pybind11::handle(PyExc_ValueError)));
    pybind11::register_exception<AskedWhileDeciding>(m, "AskedWhileDeciding", base);
    pybind11::register_exception<UnknownStep>(m, "UnknownStep", base);
    pybind11::register_exception<UnknownCopy>(m, "UnknownCopy", base);
    pybind11::register_exception<BadResults>(m, "BadResults", base);
    pybind11::register_exception<SpecMismatch>(m, "SpecMismatch", base);
    pybind11::register_exception<GuardRefused>(m, "GuardRefused", base);
    pybind11::register_exception<TraceOverflow>(m, "TraceOverflow", base);
    const auto violated = pybind11::register_exception<InvariantViolated>(m, "InvariantViolated", base);
#if TOKENSPEED_CHECKED
    static pybind11::handle violated_type = violated;
    pybind11::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const InvariantFalse& e) {
            PyErr_SetString(violated_type.ptr(), e.what());
        }
    });
#else
    (void)violated;
#endif
}

}  // namespace tokenspeed
