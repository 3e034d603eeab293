"""Proofs, by two solvers."""
