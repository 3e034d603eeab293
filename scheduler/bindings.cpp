// The Python module `_core`: the driver contract. `_core.pyi` documents every name.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "errors.h"
#include "policy_bindings.h"
#include "python_arrays.h"
#include "scheduler.h"
#include "state_access.h"
#include "state_machine.h"

namespace py = pybind11;
namespace ts = tokenspeed;

namespace {

#if TOKENSPEED_CHECKED
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

// What Python holds: a plan that is never written to.
struct PlanView {
    std::shared_ptr<const ts::StepPlan> plan;
};

struct SubmitResult {
    std::string reason;
};

template <class T>
auto column(std::vector<T> ts::StepPlan::* member) {
    return [member](const py::object& self) {
        return ts::read_only_view((*self.cast<const PlanView&>().plan).*member, self, py::dtype::of<T>());
    };
}

auto scalar(std::int64_t ts::StepPlan::* member) {
    return [member](const PlanView& self) { return (*self.plan).*member; };
}

py::dict snapshot(const ts::Machine& machine) {
    py::dict result;
    machine.visit([&](const char* name, const std::vector<int>& index, std::int64_t value) {
        if (!result.contains(name)) result[name] = py::dict();
        if (value != 0) result[name][py::tuple(py::cast(index))] = value;
    });
    return result;
}

py::dict limits(const ts::Machine& machine) {
    py::dict result;
    machine.limits().visit([&](const char* name, std::int64_t value) { result[name] = value; });
    return result;
}

py::array_t<std::int64_t> drain_trace(ts::Scheduler& scheduler) {
    const std::vector<ts::TraceRecord> records = scheduler.take_trace();
    if (!records.empty() && records.back().kind() == ts::TraceRecord::kLost) {
        throw ts::TraceOverflow("the trace lacks " + std::to_string(scheduler.events_lost()) +
                                " events in all; drain it more often, or raise trace_capacity (now " +
                                std::to_string(scheduler.config().trace_capacity) + " records)");
    }
    const std::vector<ts::TraceEvent> trace = ts::decode(records);
    py::array_t<std::int64_t> rows(
        {static_cast<py::ssize_t>(trace.size()), static_cast<py::ssize_t>(sizeof(ts::TraceEvent) / 8)});
    if (!trace.empty()) std::memcpy(rows.mutable_data(), trace.data(), trace.size() * sizeof(ts::TraceEvent));
    return rows;
}

py::bytes drain_trace_records(ts::Scheduler& scheduler) {
    const std::vector<ts::TraceRecord> records = scheduler.take_trace();
    return {reinterpret_cast<const char*>(records.data()), records.size() * sizeof(ts::TraceRecord)};
}

// What a trace file says of the machine before the first event.
py::dict trace_header(const ts::Scheduler& scheduler) {
    py::dict header;
    header["spec"] = std::string(ts::kSpecHash);
    header["limits"] = limits(scheduler.machine());
    return header;
}

// Mixes one value of one variable into 64 bits; the sum over all values that are not 0 is the variable's digest.
std::uint64_t mixed(std::uint64_t h) {
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9ULL;
    h = (h ^ h >> 27) * 0x94d049bb133111ebULL;
    return h ^ h >> 31;
}

py::dict state_digests(const ts::Machine& machine) {
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
py::dict trace_footer(const ts::Scheduler& scheduler) {
    py::dict footer;
    footer["events"] = scheduler.events_recorded();
    footer["lost"] = scheduler.events_lost();
    footer["state"] = state_digests(scheduler.machine());
    return footer;
}

void land(ts::Scheduler& scheduler, std::int64_t step, py::handle tokens, py::handle stop) {
    const ts::IntegerInput<std::int32_t, ts::BadResults> results(tokens, "tokens");
    const ts::FlagInput stops(stop, "stop");
    if (stops.given() && stops.span().size() != results.span().size()) {
        throw ts::BadResults("stop has " + std::to_string(stops.span().size()) + " entries and tokens " +
                             std::to_string(results.span().size()));
    }
    scheduler.land(step, results.span(), stops.span());
}

void bind_errors(py::module_& m) {
    const auto base = py::register_exception<ts::SchedulerError>(m, "SchedulerError", PyExc_RuntimeError);
    py::register_exception<ts::UnknownRequest>(m, "UnknownRequest", base);
    py::register_exception<ts::DuplicateRequest>(m, "DuplicateRequest", base);
    py::register_exception<ts::BadRequest>(m, "BadRequest", py::make_tuple(base, py::handle(PyExc_ValueError)));
    py::register_exception<ts::AskedWhileDeciding>(m, "AskedWhileDeciding", base);
    py::register_exception<ts::UnknownStep>(m, "UnknownStep", base);
    py::register_exception<ts::UnknownCopy>(m, "UnknownCopy", base);
    py::register_exception<ts::BadResults>(m, "BadResults", base);
    py::register_exception<ts::SpecMismatch>(m, "SpecMismatch", base);
    py::register_exception<ts::GuardRefused>(m, "GuardRefused", base);
    py::register_exception<ts::TraceOverflow>(m, "TraceOverflow", base);
    const auto violated = py::register_exception<ts::InvariantViolated>(m, "InvariantViolated", base);
#if TOKENSPEED_CHECKED
    static py::handle violated_type = violated;
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const ts::InvariantFalse& e) {
            PyErr_SetString(violated_type.ptr(), e.what());
        }
    });
#else
    (void)violated;
#endif
}

void bind_config(py::module_& m) {
    using Config = ts::SchedulerConfig;
    py::class_<Config>(m, "SchedulerConfig")
        .def(py::init([](std::int32_t num_blocks, std::int32_t block_size, std::int32_t max_running,
                         std::int32_t max_step_tokens, std::int32_t overlap_depth, bool prefix_cache,
                         std::int32_t num_host_blocks, double host_copy_tokens_per_s, double prefill_tokens_per_s,
                         double prefill_doubling_tokens, std::int32_t max_retractions, bool kv_events,
                         bool record_trace, std::int32_t trace_capacity) {
                 Config config;
                 config.num_blocks = num_blocks;
                 config.block_size = block_size;
                 config.max_running = max_running;
                 config.max_step_tokens = max_step_tokens;
                 config.overlap_depth = overlap_depth;
                 config.prefix_cache = prefix_cache;
                 config.num_host_blocks = num_host_blocks;
                 config.host_copy_tokens_per_s = host_copy_tokens_per_s;
                 config.prefill_tokens_per_s = prefill_tokens_per_s;
                 config.prefill_doubling_tokens = prefill_doubling_tokens;
                 config.max_retractions = max_retractions;
                 config.kv_events = kv_events;
                 config.record_trace = record_trace;
                 config.trace_capacity = trace_capacity;
                 config.validate();
                 return config;
             }),
             py::kw_only(), py::arg("num_blocks"), py::arg("block_size") = 64, py::arg("max_running") = 256,
             py::arg("max_step_tokens") = 8192, py::arg("overlap_depth") = 1, py::arg("prefix_cache") = true,
             py::arg("num_host_blocks") = 0, py::arg("host_copy_tokens_per_s") = Config{}.host_copy_tokens_per_s,
             py::arg("prefill_tokens_per_s") = Config{}.prefill_tokens_per_s,
             py::arg("prefill_doubling_tokens") = Config{}.prefill_doubling_tokens,
             py::arg("max_retractions") = Config{}.max_retractions, py::arg("kv_events") = false,
             py::arg("record_trace") = false, py::arg("trace_capacity") = Config{}.trace_capacity)
        .def_readonly("num_blocks", &Config::num_blocks)
        .def_readonly("block_size", &Config::block_size)
        .def_readonly("max_running", &Config::max_running)
        .def_readonly("max_step_tokens", &Config::max_step_tokens)
        .def_readonly("overlap_depth", &Config::overlap_depth)
        .def_readonly("prefix_cache", &Config::prefix_cache)
        .def_readonly("num_host_blocks", &Config::num_host_blocks)
        .def_readonly("host_copy_tokens_per_s", &Config::host_copy_tokens_per_s)
        .def_readonly("prefill_tokens_per_s", &Config::prefill_tokens_per_s)
        .def_readonly("prefill_doubling_tokens", &Config::prefill_doubling_tokens)
        .def_readonly("max_retractions", &Config::max_retractions)
        .def_readonly("kv_events", &Config::kv_events)
        .def_readonly("record_trace", &Config::record_trace)
        .def_readonly("trace_capacity", &Config::trace_capacity)
        .def("recompute_s", &Config::recompute_s, py::arg("start"), py::arg("tokens"))
        .def("copy_s", &Config::copy_s, py::arg("tokens"));
}

void bind_results(py::module_& m) {
    py::class_<SubmitResult>(m, "SubmitResult")
        .def_property_readonly("accepted", [](const SubmitResult& self) { return self.reason.empty(); })
        .def_readonly("reason", &SubmitResult::reason)
        .def("__bool__", [](const SubmitResult& self) { return self.reason.empty(); })
        .def("__repr__", [](const SubmitResult& self) {
            return self.reason.empty() ? std::string("<accepted>") : "<rejected: " + self.reason + ">";
        });

    auto kinds = py::class_<ts::EventKind>(m, "EventKind");
    kinds.attr("ADMITTED") = static_cast<int>(ts::EventKind::Admitted);
    kinds.attr("FIRST_TOKEN") = static_cast<int>(ts::EventKind::FirstToken);
    kinds.attr("FINISHED") = static_cast<int>(ts::EventKind::Finished);
    kinds.attr("ABORTED") = static_cast<int>(ts::EventKind::Aborted);
    kinds.attr("RETRACTED") = static_cast<int>(ts::EventKind::Retracted);
    kinds.attr("KV_STORED") = static_cast<int>(ts::EventKind::KvStored);
    kinds.attr("KV_REMOVED") = static_cast<int>(ts::EventKind::KvRemoved);
    kinds.attr("HOST_STORED") = static_cast<int>(ts::EventKind::HostStored);
    kinds.attr("HOST_REMOVED") = static_cast<int>(ts::EventKind::HostRemoved);
    kinds.attr("FETCHED") = static_cast<int>(ts::EventKind::Fetched);

    using Stats = ts::Stats;
    py::class_<Stats>(m, "Stats")
        .def_readonly("num_blocks", &Stats::num_blocks)
        .def_readonly("free_blocks", &Stats::free_blocks)
        .def_readonly("cached_blocks", &Stats::cached_blocks)
        .def_readonly("held_blocks", &Stats::held_blocks)
        .def_readonly("waiting", &Stats::waiting)
        .def_readonly("running", &Stats::running)
        .def_readonly("steps_in_flight", &Stats::steps_in_flight)
        .def_readonly("live_requests", &Stats::live_requests)
        .def_readonly("steps", &Stats::steps)
        .def_readonly("scheduled_tokens", &Stats::scheduled_tokens)
        .def_readonly("output_tokens", &Stats::output_tokens)
        .def_readonly("submitted", &Stats::submitted)
        .def_readonly("finished", &Stats::finished)
        .def_readonly("aborted", &Stats::aborted)
        .def_readonly("retractions", &Stats::retractions)
        .def_readonly("evictions", &Stats::evictions)
        .def_readonly("prefix_query_tokens", &Stats::prefix_query_tokens)
        .def_readonly("prefix_hit_tokens", &Stats::prefix_hit_tokens)
        .def_readonly("host_hit_tokens", &Stats::host_hit_tokens)
        .def_readonly("num_host_blocks", &Stats::num_host_blocks)
        .def_readonly("host_used_blocks", &Stats::host_used_blocks)
        .def_readonly("copies_in_flight", &Stats::copies_in_flight)
        .def_readonly("spills", &Stats::spills)
        .def_readonly("fetches", &Stats::fetches)
        .def_readonly("host_evictions", &Stats::host_evictions)
        .def_readonly("tails_kept", &Stats::tails_kept)
        .def_readonly("tails_matched", &Stats::tails_matched)
        .def_readonly("most_retractions", &Stats::most_retractions)
        .def_readonly("policy_errors", &Stats::policy_errors);
}

void bind_plan(py::module_& m) {
    using Plan = ts::StepPlan;
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
        .def_property_readonly("samples",
                               [](const py::object& self) {
                                   const auto& samples = self.cast<const PlanView&>().plan->samples;
                                   return ts::read_only_view(samples, self, py::dtype::of<bool>());
                               })
        .def_property_readonly("input_ids", column(&Plan::input_ids))
        .def_property_readonly("positions", column(&Plan::positions))
        .def_property_readonly("table_slots", column(&Plan::table_slots))
        .def_property_readonly("table_index", column(&Plan::table_index))
        .def_property_readonly("table_blocks", column(&Plan::table_blocks));
}

template <class T>
auto copy_column(std::vector<T> ts::CopyBatch::* member) {
    return [member](const py::object& self) {
        return ts::read_only_view(self.cast<const ts::CopyBatch&>().*member, self, py::dtype::of<T>());
    };
}

void bind_copies(py::module_& m) {
    using Batch = ts::CopyBatch;
    auto kinds = py::class_<ts::CopyKind>(m, "CopyKind");
    kinds.attr("SPILL") = static_cast<int>(ts::CopyKind::Spill);
    kinds.attr("FETCH") = static_cast<int>(ts::CopyKind::Fetch);
    py::class_<Batch>(m, "CopyBatch")
        .def("__len__", [](const Batch& self) { return self.ids.size(); })
        .def_property_readonly("ids", copy_column(&Batch::ids))
        .def_property_readonly("kinds", copy_column(&Batch::kinds))
        .def_property_readonly("blocks", copy_column(&Batch::blocks))
        .def_property_readonly("host_pages", copy_column(&Batch::host_pages))
        .def_property_readonly("num_tokens", copy_column(&Batch::num_tokens));
}

ts::Urgency urgency(std::int64_t priority, std::optional<std::int64_t> deadline) {
    return {priority, deadline.value_or(ts::kNoDeadline)};
}

void bind_scheduler(py::module_& m) {
    using Scheduler = ts::Scheduler;
    py::class_<Scheduler>(m, "Scheduler")
        .def(py::init([](const ts::SchedulerConfig& config, const std::optional<std::string>& spec_hash,
                         const py::object& policy) {
                 if (spec_hash && *spec_hash != ts::kSpecHash) {
                     throw ts::SpecMismatch("the driver was built for specification " + *spec_hash +
                                            ", this scheduler was generated from " + std::string(ts::kSpecHash) +
                                            "; rebuild whichever is older (make setup)");
                 }
                 return std::make_unique<Scheduler>(config, ts::policy_of(policy));
             }),
             py::arg("config"), py::arg("spec_hash") = py::none(), py::arg("policy") = "default")
        .def_property_readonly("config", &Scheduler::config)
        .def_property_readonly("limits", [](const Scheduler& self) { return limits(self.machine()); })
        .def(
            "submit",
            [](Scheduler& self, std::int64_t request_id, py::handle tokens, std::int64_t max_new_tokens,
               std::int64_t priority, std::optional<std::int64_t> deadline) {
                const ts::IntegerInput<std::int32_t, ts::BadRequest> input(tokens, "tokens");
                return SubmitResult{self.submit(request_id, input.span(), max_new_tokens, urgency(priority, deadline))};
            },
            py::arg("request_id"), py::arg("tokens"), py::arg("max_new_tokens"), py::arg("priority") = 0,
            py::arg("deadline") = py::none())
        .def(
            "submit_hashed",
            [](Scheduler& self, std::int64_t request_id, std::int64_t prompt_tokens, py::handle page_hashes,
               std::int64_t max_new_tokens, std::int64_t priority, std::optional<std::int64_t> deadline) {
                const ts::IntegerInput<std::uint64_t, ts::BadRequest> input(page_hashes, "page_hashes");
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
        .def("land", &land, py::arg("step"), py::arg("tokens"), py::arg("stop") = py::none())
        .def("copies",
             [](Scheduler& self) -> py::object {
                 ts::CopyBatch batch = self.take_copies();
                 return batch.empty() ? py::none() : py::cast(std::move(batch));
             })
        .def(
            "transfer_done",
            [](Scheduler& self, py::handle copy_ids) {
                const ts::IntegerInput<std::int64_t, ts::BadResults> input(copy_ids, "copy_ids");
                self.transfer_done(input.span());
            },
            py::arg("copy_ids"))
        .def(
            "events",
            [](Scheduler& self) {
                py::list result;
                for (const ts::Event& event : self.events()) {
                    result.append(py::make_tuple(static_cast<std::int64_t>(event.kind), event.request_id, event.value));
                }
                self.clear_events();
                return result;
            })
        .def("stats", &Scheduler::stats)
        .def("transition_counts",
             [](const Scheduler& self) {
                 py::dict counts;
                 for (std::size_t i = 0; i < ts::kTransitions; ++i) {
                     counts[py::str(ts::kTransitionNames[i].data(), ts::kTransitionNames[i].size())] =
                         self.machine().taken()[i];
                 }
                 return counts;
             })
        .def("drain_trace", &drain_trace)
        .def("drain_trace_records", &drain_trace_records)
        .def("trace_header", &trace_header)
        .def("trace_footer", &trace_footer)
        .def("snapshot", [](const Scheduler& self) { return snapshot(self.machine()); })
        .def("check", &Scheduler::check);
}

void bind_machine(py::module_& m) {
    using Machine = ts::Machine;
    py::class_<Machine>(m, "Machine")
        .def(py::init([](std::int64_t page, std::int64_t blocks, ts::StepId steps, std::int64_t hosts,
                         ts::CopyId copies, std::int64_t width, std::int64_t window) {
                 if (page < 1 || blocks < 0 || steps < 0 || hosts < 0 || copies < 0 || width < 1 || window < 1) {
                     throw py::value_error("page, width and window must be at least 1, the others at least 0");
                 }
                 return Machine(ts::Limits{.page = page,
                                           .blocks = blocks,
                                           .room = page * blocks,
                                           .hosts = hosts,
                                           .width = width,
                                           .window = window,
                                           .step_records = steps,
                                           .copy_records = copies});
             }),
             py::kw_only(), py::arg("page"), py::arg("blocks"), py::arg("steps"), py::arg("hosts") = 0,
             py::arg("copies") = 0, py::arg("width") = 1, py::arg("window") = std::int64_t{1} << 40)
        .def_property_readonly("limits", [](const Machine& self) { return limits(self); })
        .def("add_request", &Machine::add_request)
        .def(
            "apply",
            [](Machine& self, int transition, const std::vector<std::int64_t>& given) {
                if (transition < 0 || transition >= static_cast<int>(ts::kTransitions) || given.size() > 4) {
                    throw py::value_error("there is no such transition, or more than four arguments");
                }
                std::array<std::int64_t, 4> arguments{};
                std::copy(given.begin(), given.end(), arguments.begin());
                const ts::Guard guard = self.apply(static_cast<ts::Transition>(transition), arguments);
                return guard == ts::Guard::none ? std::string()
                                                : std::string(ts::kGuardNames[static_cast<std::size_t>(guard)]);
            },
            py::arg("transition"), py::arg("arguments"))
        .def("snapshot", &snapshot);
}

}  // namespace

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    m.doc() = "The compiled scheduler; see _core.pyi.";
    m.attr("SPEC_HASH") = std::string(ts::kSpecHash);
    m.attr("SOURCE_HASH") = TOKENSPEED_SOURCE_HASH;
    m.attr("CHECKED") = kChecked;
    py::list names;
    for (const auto& name : ts::kTransitionNames) names.append(std::string(name));
    m.attr("TRANSITIONS") = py::tuple(names);
#if TOKENSPEED_CHECKED
    m.attr("STATE_ACCESS") = py::none();
#else
    m.attr("STATE_ACCESS") = py::capsule(&ts::kStateAccess, ts::kStateAccessName);
#endif
    bind_errors(m);
    bind_config(m);
    bind_results(m);
    bind_plan(m);
    bind_copies(m);
    ts::bind_policy(m);
    bind_scheduler(m);
    bind_machine(m);
    ts::bind_state_machine(m);
}
