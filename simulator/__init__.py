"""Discrete-event simulation of GPUs that are driven by the compiled scheduler."""
