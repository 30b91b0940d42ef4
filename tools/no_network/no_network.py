"""Cut this Python process off from every machine but itself.

With this folder on PYTHONPATH, `sitecustomize` calls `cut` in every Python process that starts,
notebook kernels included. The loopback stays open: Jupyter talks to its kernels over it.
"""

import os
import sys

LOOPBACK = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}
# the address stands at this place in the arguments of each audit event
ADDRESS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


class NetworkCut(ConnectionError):
    """Something tried to reach another machine."""


def _audit(event, arguments):
    if event not in ADDRESS:
        return
    host = arguments[ADDRESS[event]]
    if isinstance(host, tuple):  # (host, port, ...)
        host = host[0]
    elif not event.startswith("socket.get"):  # a path: a socket of the file system
        return
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host is not None and host not in LOOPBACK and not host.startswith("127."):
        raise NetworkCut(f"the network is cut off in tests, but {event} asked for {host}")


def cut() -> None:
    """Refuse every address but the loopback's, for as long as this process lives."""
    if getattr(sys, "_network_is_cut", False):
        return
    sys._network_is_cut = True
    for name in list(os.environ):  # a proxy on the loopback would be a way out
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    sys.addaudithook(_audit)
