"""Plans on tensors: collectives by torch.distributed, a rank's slices of the weights, and the stack that runs them."""
