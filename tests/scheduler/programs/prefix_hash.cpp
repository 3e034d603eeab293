// Answers hashes of prefixes for a given key, and compares the prefix table with std::map.
//
//   prefix_hash hash PAGE POINT_HIGH POINT_LOW WORDS... < tokens       one line "high low" for each whole page
//   prefix_hash table SEED OPERATIONS                                  prints the largest size if they always agree
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/core/memory/page_hash.h"
#include "scheduler/core/memory/prefix_table.h"

using tokenspeed::PageHash;
using tokenspeed::PageHasher;

namespace {

std::uint64_t number(const char* text) {
    return std::strtoull(text, nullptr, 10);
}

int hash(int count, char** arguments) {
    const auto page = static_cast<std::int32_t>(number(arguments[2]));
    PageHasher::Key key{number(arguments[3]), number(arguments[4]), {}};
    for (int i = 5; i < count; ++i) key.words.push_back(number(arguments[i]));
    if (key.words.size() != PageHasher::key_words(page)) return 2;
    const PageHasher hasher(page, std::move(key));
    std::vector<std::int32_t> tokens;
    for (std::int32_t token; std::cin >> token;) tokens.push_back(token);
    PageHash prefix = PageHasher::kEmpty;
    for (std::size_t end = page; end <= tokens.size(); end += page) {
        prefix = hasher.extend(prefix, tokens.data() + (end - page));
        std::cout << prefix.high << ' ' << prefix.low << '\n';
    }
    return 0;
}

int table(std::uint64_t seed, std::uint64_t operations) {
    std::mt19937_64 random(seed);
    tokenspeed::PrefixTable table;
    std::map<std::pair<std::uint64_t, std::uint64_t>, std::int32_t> expected;
    std::size_t largest = 0;
    for (std::uint64_t i = 0; i < operations; ++i) {
        // Small numbers as traces give them, with many different high words; phases of growth and of decline.
        const PageHash prefix{random() % 3, random() % 97};
        const bool grows = (i / 500) % 2 == 0;
        const auto value = static_cast<std::int32_t>(random() % 1000);
        if (random() % 3 < (grows ? 2 : 1)) {
            const bool fresh = expected.try_emplace({prefix.high, prefix.low}, value).second;
            if (table.insert(prefix, value) != fresh) return 1;
        } else {
            expected.erase({prefix.high, prefix.low});
            table.erase(prefix);
        }
        if (table.size() != expected.size()) return 1;
        std::size_t visited = 0;
        table.for_each([&](const PageHash& p, std::int32_t v) {
            const auto at = expected.find({p.high, p.low});
            visited += at != expected.end() && at->second == v ? 1 : 0;
        });
        if (visited != expected.size()) return 1;
        for (std::uint64_t low = 0; low < 97; ++low) {
            const auto at = expected.find({prefix.high, low});
            if (table.find({prefix.high, low}) != (at == expected.end() ? tokenspeed::kNone : at->second)) return 1;
        }
        largest = std::max(largest, expected.size());
    }
    std::cout << largest << '\n';
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (std::string(arguments[1]) == "hash") return hash(count, arguments);
    return table(number(arguments[2]), number(arguments[3]));
}
