"""Checks and measures the kernels on the device at hand: `tokenspeed kernels`."""
