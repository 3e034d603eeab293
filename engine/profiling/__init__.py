"""Measures the steps of a model on the device at hand, for the simulator."""
