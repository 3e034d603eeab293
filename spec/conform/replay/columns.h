// Where a replay keeps the values of the specification's variables: one number, a column, or a hash table.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tokenspeed::replay {

// The individuals of one value; what a variable has no index for is 0.
struct Index {
    std::array<std::int32_t, 3> at{};
    std::size_t size = 0;

    Index() = default;
    template <class... I>
    explicit Index(I... i) : at{static_cast<std::int32_t>(i)...}, size(sizeof...(I)) {}
    std::int64_t operator[](std::size_t i) const { return at[i]; }
};

// A variable without an index.
struct Scalar {
    std::int64_t initial = 0;
    std::int64_t value = 0;

    std::int64_t get() const { return value; }
    void set(std::int64_t x) { value = x; }
    template <class See>
    void visit(See&& see) const {
        if (value != 0) see(Index{}, value);
    }
};

// A variable over one sort.
struct Column {
    std::int64_t initial = 0;
    std::vector<std::int64_t> values;

    std::int64_t get(std::int64_t i) const { return values[static_cast<std::size_t>(i)]; }
    void set(std::int64_t i, std::int64_t x) { values[static_cast<std::size_t>(i)] = x; }
    void grow(std::int64_t count) { values.resize(static_cast<std::size_t>(count), initial); }
    template <class See>
    void visit(See&& see) const {
        for (std::size_t i = 0; i < values.size(); ++i) {
            if (values[i] != 0) see(Index{i}, values[i]);
        }
    }
};

// A variable over several sorts. Only values that are not the initial one are kept; open addressing, linear probing.
template <std::size_t N>
class Relation {
  public:
    std::int64_t initial = 0;

    Relation() : slots_(16) {}

    template <class... I>
    std::int64_t get(I... i) const {
        const Slot& slot = slots_[find(key(i...))];
        return slot.used ? slot.value : initial;
    }
    // Individuals, then the value.
    template <class... I>
    void set(I... given) {
        static_assert(sizeof...(I) == N + 1);
        const std::array<std::int64_t, N + 1> all{given...};
        Key k;
        for (std::size_t i = 0; i < N; ++i) k[i] = static_cast<std::int32_t>(all[i]);
        put(k, all[N]);
    }
    template <class See>
    void visit(See&& see) const {
        for (const Slot& slot : slots_) {
            if (!slot.used || slot.value == 0) continue;
            Index index;
            index.size = N;
            for (std::size_t i = 0; i < N; ++i) index.at[i] = slot.key[i];
            see(index, slot.value);
        }
    }

  private:
    using Key = std::array<std::int32_t, N>;
    struct Slot {
        Key key{};
        bool used = false;
        std::int64_t value = 0;
    };

    template <class... I>
    static Key key(I... i) {
        static_assert(sizeof...(I) == N);
        return {static_cast<std::int32_t>(i)...};
    }
    std::size_t home(const Key& k) const {
        std::uint64_t h = 0;
        for (const std::int32_t i : k) h = (h ^ static_cast<std::uint32_t>(i)) * 0x9E3779B97F4A7C15ULL;
        return (h ^ h >> 32) & (slots_.size() - 1);
    }
    std::size_t find(const Key& k) const {
        std::size_t at = home(k);
        while (slots_[at].used && slots_[at].key != k) at = (at + 1) & (slots_.size() - 1);
        return at;
    }
    void put(const Key& k, std::int64_t x) {
        const std::size_t at = find(k);
        if (x == initial) {
            if (slots_[at].used) remove(at);
        } else if (slots_[at].used) {
            slots_[at].value = x;
        } else {
            slots_[at] = {k, true, x};
            if (++used_ * 2 > slots_.size()) rehash();
        }
    }
    // Moves later members of the same run up, so that every run stays without gaps.
    void remove(std::size_t gap) {
        const std::size_t mask = slots_.size() - 1;
        for (std::size_t at = (gap + 1) & mask; slots_[at].used; at = (at + 1) & mask) {
            if (((at - home(slots_[at].key)) & mask) >= ((at - gap) & mask)) {
                slots_[gap] = slots_[at];
                gap = at;
            }
        }
        slots_[gap].used = false;
        --used_;
    }
    void rehash() {
        std::vector<Slot> old(slots_.size() * 2);
        std::swap(old, slots_);
        for (const Slot& slot : old) {
            if (slot.used) slots_[find(slot.key)] = slot;
        }
    }

    std::vector<Slot> slots_;
    std::size_t used_ = 0;
};

// Sums that are compared with a counter over N sorts.
template <std::size_t N>
class Totals {
  public:
    template <class... I>
    void add(I... given) {
        const std::array<std::int64_t, N + 1> all{given...};
        Index index;
        index.size = N;
        for (std::size_t i = 0; i < N; ++i) index.at[i] = static_cast<std::int32_t>(all[i]);
        add_at(index, all[N]);
    }
    template <class Counter>
    bool same(const Counter& counter) {
        counter.visit([&](const Index& i, std::int64_t x) { add_at(i, -x); });
        bool all_zero = true;
        sums_.visit([&](const Index&, std::int64_t x) { all_zero &= x == 0; });
        return all_zero;
    }

  private:
    void add_at(const Index& index, std::int64_t x) {
        static_assert(N == 1 || N == 2);
        if constexpr (N == 1) {
            sums_.set(index[0], std::int64_t{0}, sums_.get(index[0], std::int64_t{0}) + x);
        } else {
            sums_.set(index[0], index[1], sums_.get(index[0], index[1]) + x);
        }
    }
    Relation<2> sums_;
};

}  // namespace tokenspeed::replay
