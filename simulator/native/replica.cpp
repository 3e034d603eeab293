#include "simulator/native/replica.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace tokenspeed::simulator {

Replica::Replica(std::int64_t index, const SchedulerConfig& config, std::shared_ptr<const StepCost> cost,
                 std::int64_t host_step_ns, CallColumns calls, std::shared_ptr<const Policy> policy)
    : config_(config),
      cost_(std::move(cost)),
      host_step_ns_(host_step_ns),
      most_in_flight_(static_cast<std::size_t>(config.overlap_depth) + 1),
      calls_(calls),
      steps_(index),
      sampled_(static_cast<std::size_t>(config.max_running), 0) {
    start(0, std::move(policy));
}

void Replica::start(std::int64_t now, std::shared_ptr<const Policy> policy) {
    scheduler_ = std::make_unique<Scheduler>(config_, std::move(policy));
    in_flight_.clear();
    for (auto& direction : copying_) direction.clear();
    copy_free_ns_[0] = copy_free_ns_[1] = 0;
    host_free_ns_ = device_free_ns_ = now;
    next_event_ = kNever;
    wants_plan_ = policy_failed_ = false;
    stored_.clear();
    live_.clear();
}

std::string Replica::submit(std::int64_t call, std::int64_t prompt_tokens, std::span<const std::uint64_t> page_hashes,
                            std::int64_t output_tokens) {
    std::string reason = scheduler_->submit_hashed(call, prompt_tokens, page_hashes, output_tokens);
    if (!reason.empty()) return reason;
    live_.push_back(call);
    want_plan();
    return {};
}

std::vector<std::int64_t> Replica::fail(std::int64_t now, std::shared_ptr<const Policy> policy) {
    std::vector<std::int64_t> lost = std::move(live_);
    start(now, std::move(policy));
    return lost;
}

void Replica::happen(std::vector<std::int64_t>& finished) {
    if (!in_flight_.empty() && in_flight_.front().end == next_event_) {
        land(finished);
    } else {
        end_copies();
    }
    find_next_event();
}

void Replica::land(std::vector<std::int64_t>& finished) {
    const Flight flight = in_flight_.front();
    in_flight_.pop_front();
    scheduler_->land(flight.step, {sampled_.data(), static_cast<std::size_t>(flight.sampled)}, {}, {});
    steps_.add(flight.start, flight.end, flight.context, flight.pairs, flight.levels);
    note_events(flight.end, &finished);
    want_plan();
}

void Replica::end_copies() {
    std::deque<Copies>* first = nullptr;
    for (auto& direction : copying_) {
        if (direction.empty() || direction.front().end != next_event_) continue;
        if (first == nullptr || direction.front().number < first->front().number) first = &direction;
    }
    scheduler_->transfer_done(first->front().ids);
    first->pop_front();
    want_plan();
}

void Replica::plan(std::int64_t now) {
    wants_plan_ = false;
    while (in_flight_.size() < most_in_flight_) {
        const auto plan = scheduler_->plan();
        if (plan == nullptr) break;
        const std::int64_t planned = std::max(now, host_free_ns_) + host_step_ns_;
        const std::int64_t start = std::max(planned, device_free_ns_);
        const std::int64_t end = start + std::max<std::int64_t>(cost_->step_ns(*plan), 1);
        host_free_ns_ = planned;
        device_free_ns_ = end;
        const Stats level = scheduler_->stats();
        policy_failed_ = policy_failed_ || level.policy_errors > 0;
        const auto rows = static_cast<std::int64_t>(plan->start.size());
        in_flight_.push_back({plan->step, start, end, plan->sampling_rows, plan->context_tokens, plan->attention_pairs,
                              Levels{rows, plan->tokens, plan->decode_rows, plan->sampling_rows, level.held_blocks,
                                     level.cached_blocks, level.running, level.waiting}});
    }
    if (config_.num_host_blocks > 0) start_copies(now);
    note_events(now, nullptr);
    find_next_event();
}

void Replica::start_copies(std::int64_t now) {
    const CopyBatch batch = scheduler_->take_copies();
    if (batch.empty()) return;
    const double ns_per_token = 1e9 / config_.host_copy_tokens_per_s;
    for (const auto kind : {CopyKind::Spill, CopyKind::Fetch}) {
        Copies copies{0, ++copies_started_, {}};
        std::int64_t tokens = 0;
        for (std::size_t copy = 0; copy < batch.ids.size(); ++copy) {
            if (batch.kinds[copy] != static_cast<std::uint8_t>(kind)) continue;
            copies.ids.push_back(batch.ids[copy]);
            tokens += batch.num_tokens[copy];
        }
        if (copies.ids.empty()) continue;
        const auto direction = static_cast<std::size_t>(kind);
        const auto duration = static_cast<std::int64_t>(static_cast<double>(tokens) * ns_per_token);
        copies.end = std::max(now, copy_free_ns_[direction]) + std::max<std::int64_t>(duration, 1);
        copy_free_ns_[direction] = copies.end;
        copying_[direction].push_back(std::move(copies));
    }
}

void Replica::note_events(std::int64_t now, std::vector<std::int64_t>* finished) {
    for (const Event& event : scheduler_->events()) {
        const auto call = static_cast<std::size_t>(event.request_id);
        switch (event.kind) {
            case EventKind::Admitted:
                if (calls_.admitted_ns[call] < 0) {
                    calls_.admitted_ns[call] = now;
                    calls_.hit_tokens[call] = event.value;
                }
                break;
            case EventKind::Fetched:
                if (calls_.admitted_ns[call] < 0) calls_.host_hit_tokens[call] = event.value;
                break;
            case EventKind::FirstToken:
                if (calls_.first_token_ns[call] < 0) calls_.first_token_ns[call] = now;
                break;
            case EventKind::Finished:
                calls_.finish_ns[call] = now;
                calls_.output_tokens[call] = event.value;
                live_.erase(std::find(live_.begin(), live_.end(), event.request_id));
                finished->push_back(event.request_id);
                break;
            case EventKind::Retracted:
                ++calls_.retractions[call];
                break;
            case EventKind::KvStored:
                stored_.insert(event.value);
                break;
            case EventKind::KvRemoved:
                stored_.erase(event.value);
                break;
            case EventKind::Failed:
                throw std::runtime_error("call " + std::to_string(event.request_id) +
                                         ": the planner proposed what the specification forbids");
            default:
                break;
        }
    }
    scheduler_->clear_events();
}

void Replica::find_next_event() {
    next_event_ = in_flight_.empty() ? kNever : in_flight_.front().end;
    for (const auto& direction : copying_) {
        if (!direction.empty()) next_event_ = std::min(next_event_, direction.front().end);
    }
}

std::int64_t Replica::stored_pages(std::span<const std::uint64_t> page_hashes) const {
    std::int64_t low = 0;
    auto high = static_cast<std::int64_t>(page_hashes.size());
    while (low < high) {
        const std::int64_t middle = (low + high + 1) / 2;
        if (stored_.contains(static_cast<std::int64_t>(page_hashes[static_cast<std::size_t>(middle - 1)]))) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

}  // namespace tokenspeed::simulator
