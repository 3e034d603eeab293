"""The C++ class with which the lock-step sees what a transition changed in a machine's memory, and undoes it."""

IMAGE = """\
// The memory of a machine's records, what it was when a state was restored, and the bytes of that state. Word by
// word it is cheap to see what a transition changed, whatever that is, and to change it back.
class Image {
 public:
  using Word = std::uint64_t;

  template <class Record>
  void region(Record* at, std::size_t count) {
    static_assert(sizeof(Record) % sizeof(Word) == 0);
    const std::size_t words = count * sizeof(Record) / sizeof(Word);
    regions_.push_back({reinterpret_cast<std::byte*>(at), kept_.size(), words});
    kept_.resize(kept_.size() + words);
    cells_.resize(kept_.size());
    written_.resize(kept_.size());
  }
  // One value: where it is, and which byte of a state gives it. `many`: an id that stands for so many flags there.
  template <class T>
  void cell(const T& at, std::int32_t value, std::int16_t many, bool moves) {
    const auto* place = reinterpret_cast<const std::byte*>(&at);
    for (const Region& region : regions_) {
      const auto offset = place - region.at;
      if (offset < 0 || offset >= static_cast<std::ptrdiff_t>(region.words * sizeof(Word))) continue;
      Cells& cells = cells_[region.first + static_cast<std::size_t>(offset) / sizeof(Word)];
      const auto shift = static_cast<std::int8_t>(8 * (offset % static_cast<std::ptrdiff_t>(sizeof(Word))));
      cells.list.at(cells.count++) = {value, many, shift, static_cast<std::int8_t>(64 - 8 * sizeof(T)), moves};
    }
  }
  void values(std::size_t count) {
    state_.resize(count);
    now_.resize(count);
  }
  std::size_t size() const { return now_.size(); }

  void keep(const std::int8_t* state) {
    for (const Region& region : regions_) std::memcpy(&kept_[region.first], region.at, region.words * sizeof(Word));
    std::memcpy(state_.data(), state, state_.size());
    std::memcpy(now_.data(), state, now_.size());
  }

  // Finds all that has changed since then. Whether that includes a value on which tables depend.
  bool look() {
    count_ = 0;
    clear_ = true;
    moved_ = false;
    for (const Region& region : regions_) {
      const bool large = region.words > 4 * kBlock;
      if (large && std::memcmp(region.at, &kept_[region.first], region.words * sizeof(Word)) == 0) continue;
      std::size_t at = 0;
      for (; at + kBlock <= region.words; at += kBlock) {
        if (!same(region, at)) look(region, at, at + kBlock);
      }
      look(region, at, region.words);
    }
    return moved_;
  }
  // A value that is in no region.
  void put(std::int32_t value, bool held) { now_[static_cast<std::size_t>(value)] = held; }
  // Stores the values that were found. Whether all that changed is a value, and each in its bounds.
  bool save(std::int8_t* state) const {
    std::memcpy(state, now_.data(), now_.size());
    return clear_;
  }
  // Back to the state that was kept.
  void undo() {
    for (std::size_t i = 0; i < count_; ++i) std::memcpy(written_[i].at, &written_[i].before, sizeof(Word));
    std::memcpy(now_.data(), state_.data(), now_.size());
  }

 private:
  static constexpr std::size_t kBlock = 4;

  struct Cell {
    std::int32_t value;
    std::int16_t many;
    std::int8_t shift;   // bits in front of it in the word (little endian)
    std::int8_t unused;  // bits of a word that it does not have
    bool moves;
  };
  struct Cells {
    std::array<Cell, 4> list;
    std::size_t count = 0;
  };
  struct Region {
    std::byte* at;
    std::size_t first;  // of its words
    std::size_t words;
  };
  struct Written {
    std::byte* at;
    Word before;
  };

  bool same(const Region& region, std::size_t at) const {
    using Two = Word __attribute__((vector_size(2 * sizeof(Word))));
    std::array<Two, kBlock / 2> now;
    std::array<Two, kBlock / 2> kept;
    std::memcpy(now.data(), region.at + at * sizeof(Word), sizeof now);
    std::memcpy(kept.data(), &kept_[region.first + at], sizeof kept);
    Two differs = {};
    for (std::size_t i = 0; i < kBlock / 2; ++i) differs |= now[i] ^ kept[i];
    return (differs[0] | differs[1]) == 0;
  }
  void look(const Region& region, std::size_t from, std::size_t to) {
    const Word* const kept = kept_.data() + region.first;
    for (std::size_t i = from; i < to; ++i) {
      Word now;
      std::memcpy(&now, region.at + i * sizeof(Word), sizeof now);
      if (now != kept[i]) changed(region.at + i * sizeof(Word), kept[i], now, cells_[region.first + i]);
    }
  }
  void changed(std::byte* at, Word before, Word now, const Cells& cells) {
    written_[count_++] = {at, before};
    clear_ = clear_ && cells.count > 0;
    for (std::size_t i = 0; i < cells.count; ++i) {
      const Cell& cell = cells.list[i];
      const std::int64_t value = number(now, cell);
      moved_ = moved_ || (cell.moves && value != number(before, cell));
      if (cell.many == 0) {
        clear_ = clear_ && value == static_cast<std::int8_t>(value);
        now_[static_cast<std::size_t>(cell.value)] = static_cast<std::int8_t>(value);
      } else {
        clear_ = clear_ && value >= kNone && value < cell.many;
        for (std::int32_t j = 0; j < cell.many; ++j) put(cell.value + j, value == j);
      }
    }
  }
  static std::int64_t number(Word word, const Cell& cell) {
    return static_cast<std::int64_t>(word >> cell.shift << cell.unused) >> cell.unused;
  }

  std::vector<Region> regions_;
  std::vector<Word> kept_;
  std::vector<Cells> cells_;
  std::vector<Written> written_;
  std::vector<std::int8_t> state_;
  std::vector<std::int8_t> now_;
  std::size_t count_ = 0;
  bool clear_ = true;
  bool moved_ = false;
};
"""

__all__ = ["IMAGE"]
