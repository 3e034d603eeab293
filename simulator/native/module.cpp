// The simulated replicas as a Python module.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "simulator/native/fleet.h"

namespace py = pybind11;

namespace tokenspeed::simulator {
namespace {

using Hashes = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>;

std::span<const std::uint64_t> span_of(const Hashes& hashes) {
    return {hashes.data(), static_cast<std::size_t>(hashes.size())};
}

// A policy by name, or an object of a Python subclass of the scheduler's `Policy`, which is kept alive.
std::shared_ptr<const Policy> policy_of(const py::object& given) {
    if (py::isinstance<py::str>(given)) {
        std::shared_ptr<const Policy> policy = make_policy(given.cast<std::string>());
        if (policy == nullptr) throw py::value_error("there is no policy of this name");
        return policy;
    }
    const auto* policy = given.cast<const Policy*>();
    auto kept = std::shared_ptr<py::object>(new py::object(given), [](py::object* object) {
        const py::gil_scoped_acquire held;
        delete object;
    });
    return {std::move(kept), policy};
}

std::shared_ptr<const StepCost> roofline_of(const py::dict& figures) {
    auto cost = std::make_shared<Roofline>();
    const auto number = [&](const char* name) { return figures[name].cast<double>(); };
    cost->dense_flops_per_token = number("dense_flops_per_token");
    cost->dense_bytes = number("dense_bytes");
    cost->experts = figures["experts"].cast<std::int64_t>();
    cost->expert_miss_log = number("expert_miss_log");
    cost->expert_flops_per_token = number("expert_flops_per_token");
    cost->expert_bytes = number("expert_bytes");
    cost->expert_bandwidth = number("expert_bandwidth");
    cost->head_flops_per_row = number("head_flops_per_row");
    cost->head_bytes = number("head_bytes");
    cost->matmul_flops = number("matmul_flops");
    cost->head_flops = number("head_flops");
    cost->attention_flops = number("attention_flops");
    cost->decode_flops_per_pair = number("decode_flops_per_pair");
    cost->prefill_flops_per_pair = number("prefill_flops_per_pair");
    cost->expand_flops_per_context = number("expand_flops_per_context");
    cost->kv_bytes_per_token = number("kv_bytes_per_token");
    cost->bandwidth = number("bandwidth");
    cost->all_reduce_latency_s = number("all_reduce_latency_s");
    cost->all_reduce_s_per_token = number("all_reduce_s_per_token");
    cost->overhead_s = number("overhead_s");
    return cost;
}

// The fleet, and the Python arrays that it writes to.
class PythonFleet {
  public:
    PythonFleet(const SchedulerConfig& config, const py::dict& roofline, std::int64_t host_step_ns,
                const py::list& policies, const py::dict& columns) {
        const auto column = [&](const char* name) {
            const auto memory = columns[name].cast<py::buffer>().request(true);
            if (memory.ndim != 1 || memory.itemsize != 8) throw py::value_error("columns must be of 64-bit integers");
            return std::span<std::int64_t>(static_cast<std::int64_t*>(memory.ptr),
                                           static_cast<std::size_t>(memory.size));
        };
        columns_ = columns;
        const CallColumns calls{column("admitted_ns"), column("first_token_ns"),  column("finish_ns"),
                                column("hit_tokens"),  column("host_hit_tokens"), column("output_tokens"),
                                column("retractions")};
        const auto cost = roofline_of(roofline);
        std::int64_t index = 0;
        for (const auto policy : policies) {
            fleet_.add(std::make_unique<Replica>(index++, config, cost, host_step_ns, calls,
                                                 policy_of(py::reinterpret_borrow<py::object>(policy))));
        }
    }

    std::string submit(std::size_t replica, std::int64_t call, std::int64_t prompt_tokens, const Hashes& page_hashes,
                       std::int64_t output_tokens, std::int64_t now) {
        std::string reason = fleet_.at(replica).submit(call, prompt_tokens, span_of(page_hashes), output_tokens);
        fleet_.changed(replica, now);
        return reason;
    }

    std::vector<std::int64_t> fail(std::size_t replica, std::int64_t now, const py::object& policy) {
        std::vector<std::int64_t> lost = fleet_.at(replica).fail(now, policy_of(policy));
        fleet_.changed(replica, now);
        return lost;
    }

    std::pair<std::int64_t, std::vector<std::int64_t>> advance(std::int64_t until) {
        fleet_.advance(until);
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        return {fleet_.now(), fleet_.finished()};
    }

    std::int64_t stored_pages(std::size_t replica, const Hashes& page_hashes) {
        return fleet_.at(replica).stored_pages(span_of(page_hashes));
    }

    // (flat runs, durations) of a replica.
    std::pair<py::array_t<std::int64_t>, py::array_t<std::int64_t>> steps(std::size_t replica) {
        StepRecorder& steps = fleet_.at(replica).steps();
        steps.close();
        const auto copied = [](const std::vector<std::int64_t>& values) {
            return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
        };
        return {copied(steps.runs()), copied(steps.durations())};
    }

    // (running, waiting, policy errors) of a replica.
    std::tuple<std::int64_t, std::int64_t, std::int64_t> state(std::size_t replica) {
        const Stats stats = fleet_.at(replica).stats();
        return {stats.running, stats.waiting, stats.policy_errors};
    }

  private:
    py::dict columns_;
    Fleet fleet_;
};

}  // namespace

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    m.doc() = "Simulated replicas that step without a visit to Python; see world/native.py.";
    m.attr("SPEC_HASH") = std::string(kSpecHash);
    py::class_<PythonFleet>(m, "Fleet")
        .def(py::init<const SchedulerConfig&, const py::dict&, std::int64_t, const py::list&, const py::dict&>(),
             py::arg("config"), py::arg("roofline"), py::arg("host_step_ns"), py::arg("policies"), py::arg("columns"))
        .def("submit", &PythonFleet::submit, py::arg("replica"), py::arg("call"), py::arg("prompt_tokens"),
             py::arg("page_hashes"), py::arg("output_tokens"), py::arg("now"))
        .def("fail", &PythonFleet::fail, py::arg("replica"), py::arg("now"), py::arg("policy"))
        .def("advance", &PythonFleet::advance, py::arg("until"))
        .def("stored_pages", &PythonFleet::stored_pages, py::arg("replica"), py::arg("page_hashes"))
        .def("steps", &PythonFleet::steps, py::arg("replica"))
        .def("state", &PythonFleet::state, py::arg("replica"));
}

}  // namespace tokenspeed::simulator
