"""The specification: request, block and step machines, their properties, and what is derived from them."""
