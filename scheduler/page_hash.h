// Names the content of a sequence's first blocks: a 128-bit chain hash, extended page by page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tokenspeed {

struct PageHash {
    std::uint64_t high = 0;
    std::uint64_t low = 0;

    bool operator==(const PageHash&) const = default;
};

struct PageHashHasher {
    std::size_t operator()(const PageHash& hash) const { return static_cast<std::size_t>(hash.low); }
};

// The number by which the machine knows a prefix: the low bits of its hash, above 0. The index compares whole hashes;
// the machine compares these again, so a block that the index names wrongly is refused.
inline std::int64_t name_of(const PageHash& prefix) {
    constexpr std::uint64_t kNames = std::uint64_t{1} << 46;
    return static_cast<std::int64_t>(prefix.low & (kNames - 1)) + 1;
}

// The hash of the prefix that ends with this page. Equal prefixes give equal hashes; for n different pages the
// probability that any two collide is about n * n / 2^129 (10^12 pages: 10^-15), if nobody searches for collisions.
inline PageHash hash_page(const PageHash& prefix, const std::int32_t* tokens, std::int32_t count) {
    constexpr std::uint64_t kOdd1 = 0x9e3779b97f4a7c15ULL;
    constexpr std::uint64_t kOdd2 = 0xd6e8feb86659fd93ULL;
    const auto mix = [](std::uint64_t a, std::uint64_t b) {
        const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
        return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    };
    std::uint64_t a = prefix.high ^ kOdd1;
    std::uint64_t b = prefix.low ^ kOdd2;
    std::int32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        std::uint64_t words[2];
        std::memcpy(words, tokens + i, sizeof words);
        a = mix(a ^ words[0], kOdd2 ^ (b >> 1)) + words[1];
        b = mix(b ^ words[1], kOdd1 ^ (a >> 1)) + words[0];
    }
    for (; i < count; ++i) {
        const auto token = static_cast<std::uint64_t>(static_cast<std::uint32_t>(tokens[i]));
        a = mix(a ^ token, kOdd2 ^ (b >> 1)) + kOdd1;
        b = mix(b + token, kOdd1 ^ (a >> 1)) + kOdd2;
    }
    a = mix(a ^ static_cast<std::uint64_t>(count), kOdd1);
    b = mix(b ^ a, kOdd2);
    return {a ^ b, b};
}

}  // namespace tokenspeed
