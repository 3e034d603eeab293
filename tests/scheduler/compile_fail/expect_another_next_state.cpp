// reason: conversion from|no viable conversion|could not convert
#include "generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block) {
    BlockHandle<BlockState::Owned> next = std::move(block).evict(machine).next();  // WRONG
}
