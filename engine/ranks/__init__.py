"""Several devices: one process for each rank, which all run the steps that one scheduler plans."""
