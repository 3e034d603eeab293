"""Sessions of calls to a model, and generators of them."""
