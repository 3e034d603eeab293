"""Drives the scheduler and a runner."""
