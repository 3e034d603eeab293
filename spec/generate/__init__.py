"""Texts that are generated from the specification."""
