"""What `tokenspeed verify` prints."""
