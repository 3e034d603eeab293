// Ghost state of the checked build: relations and counts that exist for checking only.
#pragma once

// What only the checked build does.
#if TOKENSPEED_CHECKED
#define CHECKED_ONLY(...) __VA_ARGS__
#else
#define CHECKED_ONLY(...)
#endif

#if TOKENSPEED_CHECKED

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace tokenspeed {

// A property of the specification is false: a defect of the specification, the generator or the hand-written code.
class InvariantFalse : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};

[[noreturn]] inline void fail_invariant(const char* property, std::initializer_list<std::int64_t> individuals) {
    std::string text = std::string("invariant '") + property + "' is false for (";
    bool first = true;
    for (const std::int64_t x : individuals) {
        text += (first ? "" : ", ") + std::to_string(x);
        first = false;
    }
    throw InvariantFalse(text + ")");
}

// A function from N individuals to a value; what was never written has the value T().
template <std::size_t N, class T>
class Ghost {
  public:
    using Index = std::array<std::int32_t, N>;

    T get(const Index& index) const {
        const auto at = values_.find(index);
        return at == values_.end() ? T() : at->second;
    }
    void set(const Index& index, T value) {
        if (value == T()) {
            values_.erase(index);
        } else {
            values_[index] = value;
        }
    }

  private:
    std::map<Index, T> values_;
};

// Collects ghost effects, read in the state before, and writes them all at once.
class GhostWrites {
  public:
    template <std::size_t N, class T>
    void add(Ghost<N, T>& ghost, const typename Ghost<N, T>::Index& index, std::type_identity_t<T> value) {
        writes_.emplace_back([&ghost, index, value] { ghost.set(index, value); });
    }
    void commit() {
        for (const auto& write : writes_) write();
    }

  private:
    std::vector<std::function<void()>> writes_;
};

}  // namespace tokenspeed

#endif
