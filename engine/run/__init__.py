"""Executes steps."""
