"""What a specification is made of."""
