"""TLS between our own processes, where Ray has it.

Ray's variables say where the files are: RAY_USE_TLS, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and
RAY_TLS_CA_CERT (https://docs.ray.io/en/latest/ray-core/configure.html#tls-authentication).
"""

import ssl
from collections.abc import Mapping


def context(environment: Mapping[str, str], *, accepts: bool) -> ssl.SSLContext | None:
    """Give the context of one side; None where Ray has no TLS.

    Both sides show a certificate of the cluster's authority, as Ray's do. Their names are not
    compared: certificates are the nodes', whose addresses nobody knows beforehand.

    Args:
        environment: of this process.
        accepts: whether this side accepts the connection.

    Raises:
        OSError: a file can't be used.
        KeyError: a variable is missing.
    """
    if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if accepts else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(environment["RAY_TLS_SERVER_CERT"], environment["RAY_TLS_SERVER_KEY"])
    made.load_verify_locations(environment["RAY_TLS_CA_CERT"])
    return made
