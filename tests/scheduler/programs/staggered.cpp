// Where the long arrays of many requests begin: prints the offset of each in its page, in cache lines, and the sum of
// what it holds after it has grown and shrunk.
#include "scheduler/core/memory/staggered.h"

#include <bit>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

int main() {
    std::vector<tokenspeed::TokenArray> arrays(64);
    for (auto& tokens : arrays) {
        tokens.assign(10, 1);
        tokens.resize(50'000, 2);
        tokens.resize(40'000);
        const auto address = std::bit_cast<std::uintptr_t>(tokens.data());
        const std::int64_t sum = std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0});
        std::printf("%d %lld\n", static_cast<int>(address % 4096 / 64), static_cast<long long>(sum));
    }
    const std::vector<tokenspeed::TokenArray> copies = arrays;
    return copies == arrays ? 0 : 1;
}
