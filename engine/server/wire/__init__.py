"""The wire: sockets, connections, bodies and streams."""
