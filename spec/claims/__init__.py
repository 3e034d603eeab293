"""What must hold of the machines: safety, possibility, lemmas, the contract and liveness."""
