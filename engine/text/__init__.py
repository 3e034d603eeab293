"""Words and tokens: no torch."""
