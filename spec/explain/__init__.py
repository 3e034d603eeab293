"""Why something fails."""
