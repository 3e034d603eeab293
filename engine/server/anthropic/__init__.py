"""The Anthropic-compatible endpoints."""
