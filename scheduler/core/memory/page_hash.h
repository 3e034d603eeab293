// Names the content of a sequence's first blocks: a keyed 127-bit hash of a prefix of whole pages, extended page by
// page.
//
// The hash is universal: for any two different prefixes, chosen without knowing the key, the probability over the key
// that their hashes are equal is at most (2 L + 14) / 2^127, where L is the number of segments of the longer one. A
// segment is a page, or 256 tokens of a longer page. The argument:
//
// - A segment is compressed by NH (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC, CRYPTO 1999) with words of 64 bits,
//   twice, the second time with the key shifted by one pair of words (its Toeplitz extension). For two different
//   segments and any two constants, the probability that the two sums differ by exactly these constants modulo 2^128 is
//   at most 2^-128. Read modulo p = 2^127 - 1 each sum has at most five such constants: 25 / 2^128.
// - A prefix is the polynomial r^2L + a1 r^(2L-1) + b1 r^(2L-2) + ... + aL r + bL over the integers modulo p, whose
//   coefficients are the two sums of each segment, at a secret point r. Different polynomials of degree d agree on at
//   most d of the p points. Prefixes of different lengths differ in degree, others in a coefficient.
//
// Whoever sends n prefixes, having seen what was found in the cache so far, learns nothing of the key before the first
// collision, so the probability of one is at most n^2 / 2 times the above: 2^-33 for 2^40 prefixes of up to 2^14 pages
// (67 million prompts of a million tokens, page 64). The key is drawn anew for each scheduler; only the equality of
// hashes is ever used, so it influences no decision.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace tokenspeed {

struct PageHash {
    std::uint64_t high = 0;
    std::uint64_t low = 0;

    bool operator==(const PageHash&) const = default;
};

class PageHasher {
  public:
    struct Key {
        std::uint64_t point_high = 0;  // below 2^63
        std::uint64_t point_low = 0;
        std::vector<std::uint64_t> words;  // key_words(page)
    };

    static constexpr PageHash kEmpty{0, 1};  // the hash of no pages

    static constexpr std::int32_t kSegment = 256;  // tokens

    // Words of the key for pages of this many tokens: two for each started group of four tokens of a segment, and two.
    static std::size_t key_words(std::int32_t page) {
        return 2 * ((static_cast<std::size_t>(std::min(page, kSegment)) + 3) / 4) + 2;
    }

    static Key random_key(std::int32_t page) {
        std::random_device entropy;
        const auto word = [&entropy] { return std::uint64_t{entropy()} << 32 | entropy(); };
        Key key{word() >> 1, word(), std::vector<std::uint64_t>(key_words(page))};
        for (std::uint64_t& w : key.words) w = word();
        return key;
    }

    explicit PageHasher(std::int32_t page) : PageHasher(page, random_key(page)) {}

    // `key.words` has key_words(page) entries.
    PageHasher(std::int32_t page, Key key)
        : page_(static_cast<std::size_t>(page)),
          words_(std::move(key.words)),
          point_(Wide{key.point_high} << 64 | key.point_low),
          square_(product(point_, point_)) {}

    // The hash of the prefix and one page of tokens after it.
    PageHash extend(PageHash prefix, const std::int32_t* tokens) const {
        constexpr std::size_t segment = kSegment;
        for (std::size_t done = 0; done < page_; done += segment) {
            prefix = append(prefix, tokens + done, std::min(page_ - done, segment));
        }
        return prefix;
    }

    // The hash of the prefix and a part of a page after it. Its length is hashed as a segment of its own, which no page
    // of tokens equals since tokens are not negative.
    PageHash tail(PageHash prefix, std::span<const std::int32_t> tokens) const {
        for (std::size_t done = 0; done < tokens.size(); done += kSegment) {
            prefix = append(prefix, tokens.data() + done, std::min<std::size_t>(tokens.size() - done, kSegment));
        }
        const std::int32_t length = -static_cast<std::int32_t>(tokens.size());
        return append(prefix, &length, 1);
    }

  private:
    __extension__ typedef unsigned __int128 Wide;

    static constexpr Wide kPrime = ~Wide{0} >> 1;  // 2^127 - 1

    PageHash append(const PageHash& prefix, const std::int32_t* tokens, std::size_t count) const {
        static_assert(std::endian::native == std::endian::little, "four tokens are read as two 64-bit words");
        const std::uint64_t* key = words_.data();
        Wide first = 0;
        Wide second = 0;
        const auto absorb = [&](const std::int32_t* four) {
            std::uint64_t w[2];
            std::memcpy(w, four, sizeof w);
            first += Wide{w[0] + key[0]} * (w[1] + key[1]);
            second += Wide{w[0] + key[2]} * (w[1] + key[3]);
            key += 2;
        };
        std::size_t i = 0;
        for (; i + 4 <= count; i += 4) absorb(tokens + i);
        if (i < count) {
            std::int32_t last[4] = {};
            std::memcpy(last, tokens + i, (count - i) * sizeof *last);
            absorb(last);
        }
        // Off the path from hash to hash there is only one product.
        const Wide sums = folded(product(folded(first), point_) + folded(second));
        const Wide hash = reduced(product(Wide{prefix.high} << 64 | prefix.low, square_) + sums);
        return {static_cast<std::uint64_t>(hash >> 64), static_cast<std::uint64_t>(hash)};
    }

    // A number of at most 2^127 that is the same modulo p.
    static Wide folded(Wide x) { return (x & kPrime) + (x >> 127); }
    // The one below p.
    static Wide reduced(Wide x) {
        x = folded(x);
        return x >= kPrime ? x - kPrime : x;
    }

    // The product of numbers up to 2^127, modulo p: at most p, so that one more such number can be added.
    static Wide product(Wide a, Wide b) {
        const auto a0 = static_cast<std::uint64_t>(a), a1 = static_cast<std::uint64_t>(a >> 64);
        const auto b0 = static_cast<std::uint64_t>(b), b1 = static_cast<std::uint64_t>(b >> 64);
        const Wide low = Wide{a0} * b0;
        const Wide middle = Wide{a0} * b1 + Wide{a1} * b0;
        const Wide sum = low + (middle << 64);
        const Wide high = Wide{a1} * b1 + (middle >> 64) + (sum < low ? 1 : 0);
        return folded((sum & kPrime) + (high << 1 | sum >> 127));
    }

    std::size_t page_;
    std::vector<std::uint64_t> words_;
    Wide point_;
    Wide square_;
};

// The number by which the machine knows a prefix: the low bits of its hash, above 0. The index compares whole hashes;
// the machine compares these again, so a block that the index names wrongly is refused.
inline std::int64_t name_of(const PageHash& prefix) {
    constexpr std::uint64_t kNames = std::uint64_t{1} << 46;
    return static_cast<std::int64_t>(prefix.low & (kNames - 1)) + 1;
}

}  // namespace tokenspeed
