// Typed errors of the driver contract. When one is thrown for a wrong argument, the call has changed nothing.
#pragma once

#include <stdexcept>
#include <string>

#include "scheduler/generated/machine.h"

namespace tokenspeed {

class SchedulerError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

class UnknownRequest : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class DuplicateRequest : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class BadRequest : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

// A policy called back into the scheduler that asks it.
class AskedWhileDeciding : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class UnknownStep : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class UnknownCopy : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class BadResults : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class SpecMismatch : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class InvariantViolated : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

class TraceOverflow : public SchedulerError {
  public:
    using SchedulerError::SchedulerError;
};

// A policy proposed a transition that the specification forbids. The transition was refused and changed nothing.
class GuardRefused : public SchedulerError {
  public:
    explicit GuardRefused(Guard guard)
        : SchedulerError("refused: " + std::string(kGuardNames[static_cast<std::size_t>(guard)]) +
                         " (a defect of the planner; please report it)"),
          guard_(guard) {}

    Guard guard() const { return guard_; }

  private:
    Guard guard_;
};

// For proposals that cannot be refused unless the planner is wrong.
inline void require(Guard guard) {
    if (guard != Guard::none) [[unlikely]] {
        throw GuardRefused(guard);
    }
}

}  // namespace tokenspeed
