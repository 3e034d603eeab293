// Replays the records of a trace file on the specification's own state (generated/monitor.h) and stops at the first
// that is not allowed. docs/trace-format.md describes the records; spec/trace_file.py reads what is around them.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bit>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "generated/monitor.h"

namespace py = pybind11;

namespace tokenspeed::replay {
namespace {

static_assert(std::endian::native == std::endian::little, "trace records are little-endian");

constexpr std::size_t kRecord = 16;
enum Kind : std::uint8_t { kFirstKind = 0xF0, kClose = 0xFD, kLost = 0xFE, kWide = 0xFF };
static_assert(kTransitions.size() <= kFirstKind);

struct Record {
    std::uint8_t kind, flags;
    std::uint16_t sequence;
    std::array<std::uint8_t, 12> payload;

    std::int64_t argument(std::size_t i) const {
        return payload[3 * i] | payload[3 * i + 1] << 8 | payload[3 * i + 2] << 16;
    }
};
static_assert(sizeof(Record) == kRecord);

// Why a replay stopped, and at which event.
struct Stop {
    std::string reason;       // "limit", "end", "close", "guard", "lost" or "corrupt"
    std::size_t record = 0;   // number of the next record in the buffer
    std::uint64_t event = 0;  // number of the next event since the start, from 0
    int transition = -1;      // of that event; if the reason is "limit", of the last one taken
    std::vector<std::int64_t> arguments;
    std::string detail;  // the guard; how many events are lost; or what is wrong with the record
};

// One value that an event changed.
struct Change {
    std::string variable;
    std::vector<int> index;
    std::int64_t before, after;
};

std::vector<int> as_vector(const Index& index) {
    return {index.at.begin(), index.at.begin() + static_cast<std::ptrdiff_t>(index.size)};
}

class Replay {
  public:
    Replay(const std::map<std::string, std::int64_t>& constants,
           const std::map<std::string, std::optional<std::int64_t>>& sorts) {
        for (std::size_t i = 0; i < kConstants.size(); ++i) {
            monitor_.constants[i] = constants.at(std::string(kConstants[i]));
        }
        monitor_.start();
        for (std::size_t i = 0; i < kSorts.size(); ++i) {
            const std::optional<std::int64_t>& count = sorts.at(std::string(kSorts[i]));
            growing_[i] = !count.has_value();
            if (count.has_value()) monitor_.grow(i, *count);
        }
    }

    // Takes up to `limit` events of the buffer, from where the last call stopped. With `changes`, they are collected.
    Stop run(const py::buffer& buffer, std::uint64_t limit, bool changes) {
        const py::buffer_info info = buffer.request();
        if (info.itemsize != 1 || info.ndim != 1) throw std::invalid_argument("the records must be bytes");
        py::gil_scoped_release release;
        const auto* records = static_cast<const std::uint8_t*>(info.ptr);
        const std::size_t count = static_cast<std::size_t>(info.size) / kRecord;
        return changes ? follow(records, count, limit,
                                [this](int v, const Index& i, std::int64_t a, std::int64_t b) {
                                    if (a != b)
                                        changes_.push_back(
                                            {std::string(kVariables[static_cast<std::size_t>(v)]), as_vector(i), a, b});
                                })
                       : follow(records, count, limit, [](int, const Index&, std::int64_t, std::int64_t) {});
    }

    std::vector<Change> take_changes() { return std::exchange(changes_, {}); }

    std::uint64_t events() const { return event_; }

    // All values that are not 0: (variable, index) -> value.
    std::map<std::pair<std::string, std::vector<int>>, std::int64_t> values() const {
        std::map<std::pair<std::string, std::vector<int>>, std::int64_t> result;
        monitor_.visit([&](int v, const Index& i, std::int64_t x) {
            result[{std::string(kVariables[static_cast<std::size_t>(v)]), as_vector(i)}] = x;
        });
        return result;
    }

    // Concrete variable -> sum over its values of a hash of value and index.
    std::map<std::string, std::uint64_t> digests() const {
        const auto mix = [](std::uint64_t x) {
            x ^= x >> 30;
            x *= 0xbf58476d1ce4e5b9ULL;
            x ^= x >> 27;
            x *= 0x94d049bb133111ebULL;
            return x ^ (x >> 31);
        };
        std::map<std::string, std::uint64_t> result;
        monitor_.visit([&](int v, const Index& index, std::int64_t x) {
            if (!kConcrete[static_cast<std::size_t>(v)]) return;
            std::uint64_t h = mix(static_cast<std::uint64_t>(x));
            for (std::size_t i = 0; i < index.size; ++i) h = mix(h + static_cast<std::uint64_t>(index[i]) + 1);
            result[std::string(kVariables[static_cast<std::size_t>(v)])] += h;
        });
        return result;
    }

    // The first counter that is not what it counts, or nothing.
    std::string wrong_count() const {
        const int at = monitor_.wrong_count();
        return at < 0 ? std::string() : std::string(kCounts[static_cast<std::size_t>(at)]);
    }

  private:
    template <class Log>
    Stop follow(const std::uint8_t* records, std::size_t count, std::uint64_t limit, Log&& log) {
        std::array<std::int64_t, 4> arguments{};
        const auto stop = [&](const char* reason, int transition = -1, std::string detail = {}) {
            Stop result{reason, at_, event_, transition, {}, std::move(detail)};
            if (transition < 0) return result;
            for (std::size_t i = 0; i < arguments.size() && parameters(transition)[i] != -2; ++i) {
                result.arguments.push_back(arguments[i]);
            }
            return result;
        };
        int last = -1;
        for (const std::uint64_t end = event_ + limit; event_ < end; ++at_, ++event_) {
            if (at_ >= count) return stop("end");
            Record record, wide{};
            std::memcpy(&record, records + at_ * kRecord, kRecord);
            if (record.sequence != (event_ & 0xFFFF)) {
                return stop("corrupt", -1,
                            "sequence number " + std::to_string(record.sequence) + " where " +
                                std::to_string(event_ & 0xFFFF) + " (modulo 65536) is next");
            }
            if (record.kind == kClose) return stop("close");
            if (record.kind == kLost) {
                std::uint64_t lost;
                std::memcpy(&lost, record.payload.data(), sizeof lost);
                return stop("lost", -1, std::to_string(lost));
            }
            const bool is_wide = record.kind == kWide;
            if (is_wide) {
                wide = record;
                if (at_ + 1 >= count) return stop("corrupt", -1, "the last record announces one that is missing");
                std::memcpy(&record, records + (at_ + 1) * kRecord, kRecord);
                if (record.sequence != wide.sequence) {
                    return stop("corrupt", -1, "high parts of arguments are not followed by their event");
                }
            }
            if (record.kind >= kTransitions.size()) {
                return stop("corrupt", -1,
                            "unknown transition " + std::to_string(record.kind) + "; there are " +
                                std::to_string(kTransitions.size()));
            }
            const int transition = record.kind;
            for (std::size_t i = 0; i < arguments.size(); ++i) {
                const std::int64_t value = record.argument(i) | wide.argument(i) << 24;
                arguments[i] = value << 16 >> 16;
            }
            if (const std::string wrong = check(record, is_wide, arguments); !wrong.empty()) {
                return stop("corrupt", transition, wrong);
            }
            const int guard = monitor_.take(static_cast<std::size_t>(transition), arguments.data(), log);
            if (guard != 0) return stop("guard", transition, std::string(kGuards[static_cast<std::size_t>(guard)]));
            at_ += is_wide ? 1 : 0;
            last = transition;
        }
        return stop("limit", last);
    }

    static const Parameters& parameters(int transition) { return kParameters[static_cast<std::size_t>(transition)]; }

    // What is wrong with a record whatever the state is; individuals of sorts that grow come into being here.
    std::string check(const Record& record, bool is_wide, const std::array<std::int64_t, 4>& arguments) {
        const Parameters& sorts = parameters(record.kind);
        std::size_t expected = 0;
        while (expected < sorts.size() && sorts[expected] != -2) ++expected;
        const std::size_t given = record.flags & 0x7F;
        if (given != expected || (record.flags >> 7 != 0) != is_wide) {
            return "flags are " + std::to_string(record.flags) + ": " + std::to_string(expected) +
                   " arguments are expected, and high parts exactly if a record of kind 255 has them";
        }
        for (std::size_t i = 0; i < expected; ++i) {
            if (sorts[i] < 0) continue;
            const auto sort = static_cast<std::size_t>(sorts[i]);
            std::int64_t& population = monitor_.population[sort];
            if (growing_[sort] && arguments[i] == population) {
                monitor_.grow(sort, population + 1);
            } else if (arguments[i] < 0 || arguments[i] >= population) {
                return "argument " + std::to_string(i + 1) + " is " + std::to_string(arguments[i]) + ", but " +
                       std::string(kSorts[sort]) + " has " + std::to_string(population) + " individuals";
            }
        }
        for (std::size_t i = expected; i < sorts.size(); ++i) {
            if (arguments[i] != 0) return "argument " + std::to_string(i + 1) + " is given but not expected";
        }
        return {};
    }

    Monitor monitor_;
    std::array<bool, kSorts.size()> growing_{};
    std::size_t at_ = 0;
    std::uint64_t event_ = 0;
    std::vector<Change> changes_;
};

template <class Table>
py::tuple names(const Table& table) {
    py::list result;
    for (const std::string_view name : table) result.append(std::string(name));
    return py::tuple(result);
}

}  // namespace
}  // namespace tokenspeed::replay

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    namespace re = tokenspeed::replay;
    m.doc() = "Replays traces on the specification's own state; see _replay.pyi.";
    m.attr("SPEC_HASH") = std::string(re::kSpec);
    m.attr("UNCHECKED_GUARDS") = re::names(re::kUnchecked);
    m.attr("RECOUNTED") = re::names(re::kCounts);
    py::class_<re::Stop>(m, "Stop")
        .def_readonly("reason", &re::Stop::reason)
        .def_readonly("record", &re::Stop::record)
        .def_readonly("event", &re::Stop::event)
        .def_property_readonly("transition",
                               [](const re::Stop& self) {
                                   const auto at = static_cast<std::size_t>(self.transition);
                                   return self.transition < 0 ? std::string() : std::string(re::kTransitions[at]);
                               })
        .def_readonly("arguments", &re::Stop::arguments)
        .def_readonly("detail", &re::Stop::detail);
    py::class_<re::Replay>(m, "Replay")
        .def(py::init<const std::map<std::string, std::int64_t>&,
                      const std::map<std::string, std::optional<std::int64_t>>&>(),
             py::arg("constants"), py::arg("sorts"))
        .def("run", &re::Replay::run, py::arg("records"), py::arg("limit"), py::arg("changes") = false)
        .def("take_changes",
             [](re::Replay& self) {
                 py::list result;
                 for (const re::Change& c : self.take_changes()) {
                     result.append(py::make_tuple(c.variable, py::tuple(py::cast(c.index)), c.before, c.after));
                 }
                 return result;
             })
        .def_property_readonly("events", &re::Replay::events)
        .def("values",
             [](const re::Replay& self) {
                 py::dict result;
                 for (const auto& [place, value] : self.values()) {
                     result[py::make_tuple(place.first, py::tuple(py::cast(place.second)))] = value;
                 }
                 return result;
             })
        .def("digests", &re::Replay::digests)
        .def("wrong_count", &re::Replay::wrong_count);
}
