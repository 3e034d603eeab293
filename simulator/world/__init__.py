"""The simulated world: clients, replicas, links, and the clock between them."""
