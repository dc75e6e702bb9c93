"""Running the app: uvicorn on one port, draining before it ends, and an exit code that says how it ended."""

from __future__ import annotations

import logging
import socket
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from langchain_bge_medical.serving.service import Service
from langchain_bge_medical.serving.telemetry import JSONFormatter

logger = logging.getLogger("langchain_bge_medical.serving")

# Time for what was let in, then for connections to close: 30 seconds in all, as process managers usually allow.
_DRAIN_S = 20.0
_CLOSE_S = 5
# So long /ready says no before the port closes, so that a balancer can look elsewhere.
_NOTICE_S = 1.0


class Server(uvicorn.Server):
    """Answers what was let in after a SIGTERM, and 503 to what comes later, before it stops listening."""

    def __init__(self, app: FastAPI) -> None:
        """Take the app."""
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=_CLOSE_S, backlog=1_024,
        )  # fmt: skip
        super().__init__(config)
        self._service: Service = app.state.service
        self._signalled_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at once at the second."""
        if self._signalled_at is None:
            self._signalled_at = time.monotonic()
            self._service.draining = True
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end now: drained, or the model given up, so that whoever started this starts it anew."""
        if self._signalled_at is not None:
            since = time.monotonic() - self._signalled_at
            if since > _DRAIN_S or (since > _NOTICE_S and not self._service.busy()):
                self.should_exit = True
        return await super().on_tick(counter) or self._service.state() == "broken"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: Address, of version 4 or 6, or name.
        port: 0 takes a free one.

    Returns:
        The socket.

    Raises:
        OSError: If that is not possible, e.g. because another program listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1_024)


def serve(app: FastAPI, listener: socket.socket) -> int:
    """Serve until told to stop.

    Args:
        app: As `create_app` returns it.
        listener: As `listen` returns it.

    Returns:
        Exit code: 0 after a signal, 3 if the model was given up.

    Raises:
        Exception: What loading the model raised.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "openai", "urllib3"):  # they log addresses, and texts at DEBUG
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # How long a thread that wants to go on may have to wait for another that computes in Python: 5 ms by default, which
    # a batch of a small model does not take itself.
    sys.setswitchinterval(0.001)
    host, port = listener.getsockname()[:2]
    fields = {"event": "listening", "url": f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"}
    logger.info("listening", extra={"fields": fields})
    Server(app).run(sockets=[listener])
    service: Service = app.state.service
    if service.failure is not None:
        raise service.failure
    return 3 if service.state() == "broken" else 0
