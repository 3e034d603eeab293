"""HTTP: no torch."""
