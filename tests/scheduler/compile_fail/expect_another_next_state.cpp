// reason: conversion from|no viable conversion|could not convert
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block, BlockId parent) {
    BlockHandle<BlockState::Owned> next = std::move(block).evict(machine, parent).next();  // WRONG
}
