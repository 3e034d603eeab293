"""One study: its settings, what was recorded, and the numbers that follow from it."""
