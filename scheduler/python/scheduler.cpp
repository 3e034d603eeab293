// The calls of a driver: submit, plan, land, copies, events, and the trace.
#include "scheduler/core/scheduler.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "scheduler/core/contract/errors.h"
#include "scheduler/python/arrays.h"
#include "scheduler/python/bindings.h"
#include "scheduler/python/policy.h"

namespace tokenspeed {

namespace py = pybind11;

namespace {

// Why a request can never run; empty if it was accepted.
struct SubmitResult {
    std::string reason;
};

py::array_t<std::int64_t> drain_trace(Scheduler& scheduler) {
    const std::vector<TraceRecord> records = scheduler.take_trace();
    if (!records.empty() && records.back().kind() == TraceRecord::kLost) {
        throw TraceOverflow("the trace lacks " + std::to_string(scheduler.events_lost()) +
                            " events in all; drain it more often, or raise trace_capacity (now " +
                            std::to_string(scheduler.config().trace_capacity) + " records)");
    }
    const std::vector<TraceEvent> trace = decode(records);
    py::array_t<std::int64_t> rows(
        {static_cast<py::ssize_t>(trace.size()), static_cast<py::ssize_t>(sizeof(TraceEvent) / 8)});
    if (!trace.empty()) std::memcpy(rows.mutable_data(), trace.data(), trace.size() * sizeof(TraceEvent));
    return rows;
}

py::bytes drain_trace_records(Scheduler& scheduler) {
    const std::vector<TraceRecord> records = scheduler.take_trace();
    return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(TraceRecord)};
}

// What a trace file says of the machine before the first event.
py::dict trace_header(const Scheduler& scheduler) {
    py::dict header;
    header["spec"] = std::string(kSpecHash);
    header["limits"] = limits_of(scheduler.machine());
    return header;
}

// Mixes one value of one variable into 64 bits; the sum over all values that are not 0 is the variable's digest.
std::uint64_t mixed(std::uint64_t h) {
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ULL;
    h = (h ^ h >> 27) * 0x94d049bb133111ebULL;
    return h ^ h >> 31;
}

py::dict state_digests(const Machine& machine) {
    std::map<std::string, std::uint64_t> digests;
    machine.visit([&](const char* name, const std::vector<int>& index, std::int64_t value) {
        std::uint64_t& digest = digests[name];
        if (value == 0) return;
        std::uint64_t h = mixed(static_cast<std::uint64_t>(value));
        for (const int i : index) h = mixed(h + static_cast<std::uint64_t>(i) + 1);
        digest += h;
    });
    return py::cast(digests);
}

// What a trace file says of the machine after the last event.
py::dict trace_footer(const Scheduler& scheduler) {
    py::dict footer;
    footer["events"] = scheduler.events_recorded();
    footer["lost"] = scheduler.events_lost();
    footer["state"] = state_digests(scheduler.machine());
    py::list refused;
    for (const Refusal& refusal : scheduler.refusals()) {
        py::dict entry;
        entry["step"] = refusal.step;
        entry["request"] = refusal.request_id;
        entry["guard"] = std::string(kGuardNames[static_cast<std::size_t>(refusal.guard)]);
        refused.append(entry);
    }
    footer["refused"] = refused;
    return footer;
}

void land(Scheduler& scheduler, std::int64_t step, py::handle tokens, py::handle counts, py::handle stop) {
    const IntegerInput<std::int32_t, BadResults> results(tokens, "tokens");
    std::optional<IntegerInput<std::int32_t, BadResults>> accepted;
    if (!counts.is_none()) accepted.emplace(counts, "counts");
    const FlagInput stops(stop, "stop");
    const auto given = accepted ? accepted->span() : std::span<const std::int32_t>{};
    // The library takes what is empty for not given; from Python that may be a mistake.
    if (!results.span().empty() && ((accepted && given.empty()) || (stops.given() && stops.span().empty()))) {
        throw BadResults("tokens has " + std::to_string(results.span().size()) + " entries, but " +
                         (accepted && given.empty() ? "counts" : "stop") + " is empty; give None for none");
    }
    scheduler.land(step, results.span(), given, stops.span());
}

Urgency urgency(std::int64_t priority, std::optional<std::int64_t> deadline) {
    return {priority, deadline.value_or(kNoDeadline)};
}

void bind_results(py::module_& m) {
    py::class_<SubmitResult>(m, "SubmitResult")
        .def_property_readonly("accepted", [](const SubmitResult& self) { return self.reason.empty(); })
        .def_readonly("reason", &SubmitResult::reason)
        .def("__bool__", [](const SubmitResult& self) { return self.reason.empty(); })
        .def("__repr__", [](const SubmitResult& self) {
            return self.reason.empty() ? std::string("<accepted>") : "<rejected: " + self.reason + ">";
        });
    auto kinds = py::class_<EventKind>(m, "EventKind");
    kinds.attr("ADMITTED") = static_cast<int>(EventKind::Admitted);
    kinds.attr("FIRST_TOKEN") = static_cast<int>(EventKind::FirstToken);
    kinds.attr("FINISHED") = static_cast<int>(EventKind::Finished);
    kinds.attr("ABORTED") = static_cast<int>(EventKind::Aborted);
    kinds.attr("RETRACTED") = static_cast<int>(EventKind::Retracted);
    kinds.attr("KV_STORED") = static_cast<int>(EventKind::KvStored);
    kinds.attr("KV_REMOVED") = static_cast<int>(EventKind::KvRemoved);
    kinds.attr("HOST_STORED") = static_cast<int>(EventKind::HostStored);
    kinds.attr("HOST_REMOVED") = static_cast<int>(EventKind::HostRemoved);
    kinds.attr("FETCHED") = static_cast<int>(EventKind::Fetched);
    kinds.attr("FAILED") = static_cast<int>(EventKind::Failed);
    auto stats = py::class_<Stats>(m, "Stats");
    Stats::visit([&stats](const char* name, auto member) { stats.def_readonly(name, member); });
}

}  // namespace

void bind_scheduler(py::module_& m) {
    bind_results(m);
    py::class_<Scheduler>(m, "Scheduler")
        .def(py::init([](const SchedulerConfig& config, const std::optional<std::string>& spec_hash,
                         const py::object& policy) {
                 if (spec_hash && *spec_hash != kSpecHash) {
                     throw SpecMismatch("the driver was built for specification " + *spec_hash +
                                        ", this scheduler was generated from " + std::string(kSpecHash) +
                                        "; rebuild whichever is older (make setup)");
                 }
                 return std::make_unique<Scheduler>(config, policy_of(policy));
             }),
             py::arg("config"), py::arg("spec_hash") = py::none(), py::arg("policy") = "default")
        .def_property_readonly("config", &Scheduler::config)
        .def_property_readonly("limits", [](const Scheduler& self) { return limits_of(self.machine()); })
        .def(
            "submit",
            [](Scheduler& self, std::int64_t request_id, py::handle tokens, std::int64_t max_new_tokens,
               std::int64_t priority, std::optional<std::int64_t> deadline) {
                const IntegerInput<std::int32_t, BadRequest> input(tokens, "tokens");
                return SubmitResult{self.submit(request_id, input.span(), max_new_tokens, urgency(priority, deadline))};
            },
            py::arg("request_id"), py::arg("tokens"), py::arg("max_new_tokens"), py::arg("priority") = 0,
            py::arg("deadline") = py::none())
        .def(
            "submit_hashed",
            [](Scheduler& self, std::int64_t request_id, std::int64_t prompt_tokens, py::handle page_hashes,
               std::int64_t max_new_tokens, std::int64_t priority, std::optional<std::int64_t> deadline) {
                const IntegerInput<std::uint64_t, BadRequest> input(page_hashes, "page_hashes");
                return SubmitResult{self.submit_hashed(request_id, prompt_tokens, input.span(), max_new_tokens,
                                                       urgency(priority, deadline))};
            },
            py::arg("request_id"), py::arg("prompt_tokens"), py::arg("page_hashes"), py::arg("max_new_tokens"),
            py::arg("priority") = 0, py::arg("deadline") = py::none())
        .def("abort", &Scheduler::abort, py::arg("request_id"))
        .def("plan",
             [](Scheduler& self) -> py::object {
                 auto plan = self.plan();
                 return plan == nullptr ? py::none() : py::cast(PlanView{std::move(plan)});
             })
        .def("land", &land, py::arg("step"), py::arg("tokens"), py::arg("counts") = py::none(),
             py::arg("stop") = py::none())
        .def(
            "offer_drafts",
            [](Scheduler& self, std::int64_t request_id, py::handle tokens) {
                const IntegerInput<std::int32_t, BadRequest> input(tokens, "tokens");
                self.offer_drafts(request_id, input.span());
            },
            py::arg("request_id"), py::arg("tokens"))
        .def("copies",
             [](Scheduler& self) -> py::object {
                 CopyBatch batch = self.take_copies();
                 return batch.empty() ? py::none() : py::cast(std::move(batch));
             })
        .def(
            "transfer_done",
            [](Scheduler& self, py::handle copy_ids) {
                const IntegerInput<std::int64_t, BadResults> input(copy_ids, "copy_ids");
                self.transfer_done(input.span());
            },
            py::arg("copy_ids"))
        .def(
            "events",
            [](Scheduler& self) {
                py::list result;
                for (const Event& event : self.events()) {
                    result.append(py::make_tuple(static_cast<std::int64_t>(event.kind), event.request_id, event.value));
                }
                self.clear_events();
                return result;
            })
        .def("stats", &Scheduler::stats)
        .def("transition_counts",
             [](const Scheduler& self) {
                 py::dict counts;
                 for (std::size_t i = 0; i < kTransitions; ++i) {
                     counts[py::str(kTransitionNames[i].data(), kTransitionNames[i].size())] =
                         self.machine().taken()[i];
                 }
                 return counts;
             })
        .def("drain_trace", &drain_trace)
        .def("drain_trace_records", &drain_trace_records)
        .def("trace_header", &trace_header)
        .def("trace_footer", &trace_footer)
        .def("snapshot", [](const Scheduler& self) { return snapshot_of(self.machine()); })
        .def("check", &Scheduler::check);
}

}  // namespace tokenspeed
