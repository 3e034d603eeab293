"""Replies of models: tool calls and thinking, taken out of the text as it streams."""
