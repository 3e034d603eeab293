"""The serving engine: control loop, model runner and HTTP server."""
