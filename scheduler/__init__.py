"""The compiled scheduler and its driver contract."""
