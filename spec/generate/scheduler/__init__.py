"""The scheduler's transitions in C++, and access to their state."""
