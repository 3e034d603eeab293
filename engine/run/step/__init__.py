"""A step's way to the device and back: its inputs, its recorded graphs, its result."""
