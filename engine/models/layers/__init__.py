"""The code of the modules that models are declared of: each runs on one rank, with the rank's slices of its weights."""
