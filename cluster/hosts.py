"""Who is reached under a host's name or address."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether it is this machine, in a way that no other one can use."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
