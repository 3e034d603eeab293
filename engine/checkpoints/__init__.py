"""Opens models."""
