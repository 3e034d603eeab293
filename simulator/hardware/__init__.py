"""GPUs, model shapes, number formats, and a model placed on GPUs."""
