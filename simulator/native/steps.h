// Steps as runs of equal ones, as `recording/steps.py` describes and records them.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace tokenspeed::simulator {

// What is equal for all steps of a run: rows, tokens, decode rows, sampled, held and cached blocks, running, waiting.
using Levels = std::array<std::int64_t, 8>;

class StepRecorder {
  public:
    explicit StepRecorder(std::int64_t replica) : replica_(replica) {}

    void add(std::int64_t start, std::int64_t end, std::int64_t context, std::int64_t pairs, const Levels& levels) {
        const std::int64_t grown = steps_ * levels[0];
        if (steps_ > 0 && levels == levels_ && context == context_ + grown && pairs == pairs_ + grown &&
            (start - end_ == gap_ || steps_ == 1)) {
            gap_ = start - end_;
            ++steps_;
            busy_ += end - start;
        } else {
            close();
            levels_ = levels;
            start_ = start;
            context_ = context;
            pairs_ = pairs;
            steps_ = 1;
            gap_ = 0;
            busy_ = end - start;
        }
        end_ = end;
        durations_.push_back(end - start);
    }

    // Nothing joins the last run any more.
    void close() {
        if (steps_ > 0) {
            const auto& [rows, tokens, decode_rows, sampled, held, cached, running, waiting] = levels_;
            runs_.insert(runs_.end(), {replica_, start_, end_, rows, tokens, decode_rows, sampled, context_, pairs_,
                                       held, cached, running, waiting, steps_, gap_, busy_});
        }
        steps_ = 0;
    }

    const std::vector<std::int64_t>& runs() const { return runs_; }            // flat: RUN_FIELDS
    const std::vector<std::int64_t>& durations() const { return durations_; }  // nanoseconds of each step

  private:
    std::int64_t replica_;
    std::vector<std::int64_t> runs_, durations_;
    Levels levels_{};
    std::int64_t steps_ = 0, start_ = 0, end_ = 0, gap_ = 0, busy_ = 0, context_ = 0, pairs_ = 0;
};

}  // namespace tokenspeed::simulator
