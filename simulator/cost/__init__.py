"""What a step costs on a device: cost models behind one protocol."""
