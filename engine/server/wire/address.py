"""Listening on an address, with errors that say what to do."""

from __future__ import annotations

import socket


class AddressUnavailable(OSError):
    """The address cannot be listened on; the message says why and what to do."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the address; port 0 lets the system choose. Raises AddressUnavailable."""
    try:
        [family, *_], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise AddressUnavailable(f"host {host!r} cannot be resolved ({error}); choose another with --host") from None
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot listen on {host} port {port} ({reason}); choose another with --port or --host"
        raise AddressUnavailable(message) from None
