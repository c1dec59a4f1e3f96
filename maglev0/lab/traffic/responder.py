"""The responder on each node: answers TCP lines and UDP datagrams with request and node name.

Usage:
  responder --name=NAME --port=PORT
"""

from __future__ import annotations

import asyncio
import socket
import sys

import docopt

# From <linux/in.h>; Python 3.11's socket module lacks it.
IP_PKTINFO = 8
# A large datagram gets a small answer: fragments matter only on the way to the VIP.
ECHOED_BYTES = 64
DATAGRAM_BYTES = 65535
BACKLOG = 1024


def answer(request: bytes, name: str) -> bytes:
    """The answer to a request."""
    return b"%s %s\n" % (request.strip()[:ECHOED_BYTES], name.encode())


async def serve(name: str, port: int) -> None:
    """Answer on every present and future address of this namespace until cancelled."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(answer(line, name))
                await writer.drain()
        except ConnectionError:
            pass  # the client closed the connection
        finally:
            writer.close()

    datagrams = _datagram_socket(port)
    asyncio.get_running_loop().add_reader(datagrams, _answer_datagrams, datagrams, name)
    server = await asyncio.start_server(talk, "0.0.0.0", port, backlog=BACKLOG)  # noqa: S104  the VIP comes and goes
    sys.stdout.write("serving\n")
    sys.stdout.flush()
    await server.serve_forever()


def _datagram_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.bind(("0.0.0.0", port))  # noqa: S104
    return sock


def _answer_datagrams(sock: socket.socket, name: str) -> None:
    """Answer the datagrams that have arrived, each from the address it was sent to.

    Without IP_PKTINFO the kernel would send from the node's own address.
    """
    while True:
        try:
            request, ancillary, _, sender = sock.recvmsg(DATAGRAM_BYTES, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return
        # struct in_pktinfo: interface index, local address, destination. With index 0 the route
        # chooses the interface.
        source = [(level, kind, bytes(4) + data[4:]) for level, kind, data in ancillary]
        sock.sendmsg([answer(request, name)], source, 0, sender)


def main() -> None:
    """Run until killed."""
    arguments = docopt.docopt(__doc__)
    asyncio.run(serve(arguments["--name"], int(arguments["--port"])))


if __name__ == "__main__":
    main()
