"""How the processes of a run meet, and hear at once that one of them has ended.

jax has the service through which they talk within the first process, and aborts all others as soon
as they cannot reach it; and where another one ends, a collective may wait for it for minutes. Here
the service is a process of its own, this file as a program, to which all the others keep a
connection: it tells them when one of these is closed without a word.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxlib import _jax  # pyright: ignore[reportAttributeAccessIssue]

GRACE_SECONDS = 10.0  # in which the others may leave, once one has ended
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # after which a connection is taken for closed
HERE, GONE, BYE = b"+", b"!", b"."
MAKER = "get_distributed_runtime_service"  # by which jax makes the service
PORT = "aevb/port"  # under which the others find the port that is listened to


class Service:
    """What jax holds in the place of its own service."""

    def __init__(self, address: str, number: int, **options: Any):
        """Starts the program, for so many processes to meet at HOST:PORT.

        Raises:
            RuntimeError: there is something else at the port, or it cannot be had.
        """
        _wait_until_free(int(address.rpartition(":")[2]))
        # -P: else this file's neighbor types.py would be Python's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, json.dumps([address, number, options])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for the run
        )
        assert self._process.stdout is not None
        self.port = self._process.stdout.readline().decode().strip()
        if not self.port:
            raise RuntimeError(f"nothing can be served at {address}")

    def shutdown(self) -> None:
        """Lets it end when all processes have, to which it is of use until then; jax calls this."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"end\n")
            self._process.stdin.flush()


def _wait_until_free(port: int) -> None:
    """Until the service of a run that was killed has gone; gRPC would share its port with it."""
    end = time.monotonic() + 1.5 * GRACE_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection(("localhost", port), timeout=1.0).close()
        except OSError:
            return
        time.sleep(0.2)
    raise RuntimeError(f"port {port} is in use")


@contextmanager
def watched(lost: Callable[[], None]) -> Iterator[None]:
    """A context for `jax.distributed.initialize`, after which `lost` is called where another ends.

    It is called by a thread, while the main one may wait for what never comes.
    """
    from jax._src.distributed import global_state

    own = getattr(_jax, MAKER)
    setattr(_jax, MAKER, Service)
    try:
        yield
    finally:
        setattr(_jax, MAKER, own)
    client: Any = global_state.client
    if isinstance(global_state.service, Service):
        client.key_value_set(PORT, global_state.service.port)
    port = int(client.blocking_key_value_get(PORT, int(1000 * GRACE_SECONDS)))
    host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
    connection = socket.create_connection((host, port), timeout=GRACE_SECONDS)
    leaving = threading.Event()
    atexit.register(_say_bye, connection, leaving)
    threading.Thread(target=_watch, args=(connection, leaving, lost), daemon=True).start()


def _say_bye(connection: socket.socket, leaving: threading.Event) -> None:
    leaving.set()
    with suppress(OSError):
        connection.sendall(BYE)


def _watch(connection: socket.socket, leaving: threading.Event, lost: Callable[[], None]) -> None:
    """Says that this process is here, until it hears that another is not, or hears nothing."""
    connection.settimeout(BEAT_SECONDS)
    heard = time.monotonic()
    while time.monotonic() - heard < SILENCE_SECONDS:
        try:
            said = connection.recv(1)
            if said != HERE:
                break
            heard = time.monotonic()
        except TimeoutError:
            with suppress(OSError):
                connection.sendall(HERE)
        except OSError:
            break
    if not leaving.is_set():
        lost()


class Listener:
    """The program's part of it."""

    def __init__(self) -> None:
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        self.port = self._server.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._alarm = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def tell(self) -> None:
        """Tells every process that one has ended."""
        self._alarm.set()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.sendall(GONE)

    def wait(self, seconds: float) -> None:
        """Until all processes have ended, or should have."""
        end = time.monotonic() + seconds
        while self._connections and time.monotonic() < end:
            time.sleep(0.05)

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            connection.settimeout(SILENCE_SECONDS)
            self._connections.add(connection)
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        said = HERE
        while said == HERE:
            try:
                connection.sendall(GONE if self._alarm.is_set() else HERE)
                said = connection.recv(1)
            except OSError:
                said = b""
        if said == BYE:
            with suppress(OSError):
                while connection.recv(1):  # nothing, once the process has ended
                    pass
        self._connections.discard(connection)
        if said != BYE:
            self.tell()


def main() -> None:
    address, number, options = json.loads(sys.argv[1])
    service = getattr(_jax, MAKER)(address, number, **options)
    listener = Listener()
    print(listener.port, flush=True)
    if sys.stdin.readline():
        listener.wait(SILENCE_SECONDS)
    else:  # the first process has ended without a word
        listener.tell()
        listener.wait(GRACE_SECONDS)
    del service  # which they needed until now
    os._exit(0)


if __name__ == "__main__":
    main()
