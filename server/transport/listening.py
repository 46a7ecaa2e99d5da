"""What goes wrong when a listener starts, for both transports."""

from __future__ import annotations


class AddressInUse(Exception):
    """The address cannot be listened on; the message is one line for the operator."""

    def __init__(self, transport: str, host: str, port: int) -> None:
        super().__init__(f"cannot listen on {host} port {port} for {transport}: in use, or not an address of ours")
