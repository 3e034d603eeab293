"""Why a plan equals one device: the validator that every engine runs, and the proofs it rests on. No torch."""
