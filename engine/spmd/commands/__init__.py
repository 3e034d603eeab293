"""What `tokenspeed verify spmd` and `tokenspeed plan` do. No torch."""
