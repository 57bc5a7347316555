"""What every response passes: the Host that a browser names, and headers that protect the page."""

import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dualasr.errors import RunError

from .openai_errors import ApiError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PROTECTION = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
}


class Doorway:
    """ASGI middleware that checks the Host of a request, and adds headers to the response.

    The check stops DNS rebinding: a foreign site whose name suddenly leads to 127.0.0.1 would
    otherwise read a server that only this machine should reach.

    Args:
        app: The application behind it.
        hosts: Names that a request may give as its Host, without port; () for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request with 421, or pass it on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":  # none of the endpoints is one
            return await send({"type": "websocket.close", "code": 1008})

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PROTECTION.items():
                    headers.setdefault(name, value)
            await send(message)

        named = [_name(host) for host in Headers(scope=scope).getlist("host")]
        if self.hosts and (len(named) != 1 or named[0] not in self.hosts):
            refusal = ApiError(
                421,
                "This server does not answer to the Host of the request; it answers to"
                f" {', '.join(sorted(self.hosts))}. Whoever runs it can add names with"
                " --allowed_hosts.",
                code="wrong_host",
            )
            return await refusal.response()(scope, receive, protected)
        await self.app(scope, receive, protected)


def hosts_of(host: str) -> tuple[str, ...]:
    """Return the names that requests may give as their Host, for an address to listen on.

    Args:
        host: The address or name to listen on.

    Returns:
        The names of this machine and the address itself; () for any, if others can reach it.

    Raises:
        RunError: The name has no address.
    """
    if not is_loopback(host):
        return ()
    return *LOOPBACK, f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address or a name.

    Args:
        host: The address or name to listen on; "" is every address of the machine.

    Raises:
        RunError: The name has no address.
    """
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RunError(
            f"--host {host}: there is no such address; give one of this machine's, such as"
            " 127.0.0.1 or 0.0.0.0."
        ) from None
    addresses = {str(place[4][0]).partition("%")[0] for place in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _name(host: str) -> str:
    """Return a Host header's name without its port."""
    name, colon, port = host.lower().rpartition(":")
    return (
        name
        if colon and (port.isdecimal() or not port) and not host.endswith("]")
        else host.lower()
    )
