"""What happened in a simulation: columns for calls, run-length coded steps, and levels over time."""
