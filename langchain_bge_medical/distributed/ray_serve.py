"""The service on Ray Serve: in each replica the app and the engine of one machine; Ray spreads whole requests."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from langchain_bge_medical.serving.scheduler import NotReady, Overloaded, Pair

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

logger = logging.getLogger(__name__)

APP_NAME = "langchain-bge-medical"
# What a replica's engine may hold at a time; it batches, so that Ray's own default of 5 would starve it.
_REQUESTS_IN_REPLICA = 64
# A replica that has so many on average is busy: enough for full batches, and half of what it may hold is spare.
_REQUESTS_FOR_MORE_REPLICAS = 24
# Of each proxy. Counted before a request is given to a replica, so that it must hold a whole burst.
_REQUESTS_IN_QUEUE = 512
_PROBE_TIMEOUT_S = 20.0
_DRAIN_S = 60.0


class DeploymentError(RuntimeError):
    """No replica could be made."""


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are, and what each one gets."""

    least: int = 1
    most: int = 1
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: If they are out of their range.
        """
        if not 1 <= self.least <= self.most:
            raise ValueError(f"replicas are the least and the most, at least 1, got {self.least} and {self.most}")
        if self.cpus < 1 or self.gpus < 0:
            raise ValueError(f"a replica needs a CPU at least and no negative GPU, got {self.cpus} and {self.gpus}")


class Reranker:
    """One replica: the app over its own engine, with the model loaded before the first request comes."""

    def __init__(self, build_app: Callable[[], FastAPI], probe: Pair, cpus: int) -> None:
        """Build the app and load the model.

        Args:
            build_app: Returns the app; called in the replica's process.
            probe: What a sound model can score.
            cpus: Threads that torch gets: from Ray it would get one, whatever the replica has.
        """
        import torch

        torch.set_num_threads(cpus)
        self._built = build_app()
        self._service = self._built.state.service
        self._probe = probe
        # Ray sends requests as soon as this returns.
        self._service.engine.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app; Ray's name for it."""
        return self._built

    async def check_health(self) -> None:
        """Score the probe in its turn; a replica that cannot is replaced by Ray.

        Raises:
            RuntimeError: If the model or the queue is stuck or broken.
        """
        engine = self._service.engine
        try:
            await asyncio.wait_for(asyncio.wrap_future(engine.submit([self._probe])), _PROBE_TIMEOUT_S)
        except (Overloaded, asyncio.TimeoutError):
            if not engine.ready():
                raise RuntimeError("the queue does not move") from None
        except NotReady as error:
            if error.state == "broken" or not self._service.draining:
                raise RuntimeError(f"the engine is {error.state}") from None


def application(
    build_app: Callable[[], FastAPI], probe: Pair, replicas: Replicas | None = None, **options: Any
) -> Application:
    """Return the service as an application of Ray Serve's, to be run or deployed.

    Whole requests go to the replica that has fewer of two (Ray's routing); each batches what it has, refuses with 429
    what it could not work off in time, and is asked for a score now and then. Replicas are updated one after
    the other, each answering what it has before it ends.

    Args:
        build_app: Returns the app, as `create_app` does; called in each replica. Must be picklable.
        probe: What a sound model can score.
        replicas: How many, and what each gets; `None` is one on one CPU.
        options: Of `serve.deployment`, instead of those chosen here.

    Returns:
        The application.
    """
    replicas = replicas or Replicas()
    scale: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        scale = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.least,
                max_replicas=replicas.most,
                target_ongoing_requests=_REQUESTS_FOR_MORE_REPLICAS,
                upscale_delay_s=10,  # loading a model costs more than a short burst
                downscale_delay_s=300,
            )
        }
    settings: dict[str, Any] = {
        "name": "Reranker",
        "max_ongoing_requests": _REQUESTS_IN_REPLICA,
        "max_queued_requests": _REQUESTS_IN_QUEUE,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": _DRAIN_S,
        **scale,
        **options,
    }
    deployment = serve.deployment(**settings)(serve.ingress()(Reranker))
    return deployment.bind(build_app, probe, replicas.cpus)


def connect(address: str | None) -> None:
    """Connect this process to Ray, if it is not yet.

    Args:
        address: Of a running cluster, `auto` or `ray://...`; `None` starts one on this machine, for this process.

    Raises:
        ConnectionError: If there is no cluster at the address.
    """
    if not ray.is_initialized() and address is None:
        # Ray's ports are open to the network; its token authentication, on by default, keeps others out.
        ray.init("local", include_dashboard=False, log_to_driver=False)
    elif not ray.is_initialized():
        ray.init(address, log_to_driver=False)


def run(app: Application, *, host: str, port: int, address: str | None = None) -> str:
    """Run an application on a Ray cluster: on one that is started here and ends with this process, or on one there is.

    Args:
        app: As `application` returns it.
        host: Where each node's proxy listens.
        port: The same.
        address: Of a running cluster, `auto` or `ray://...`; `None` starts one on this machine.

    Returns:
        The address of the service on this machine. If the cluster was there before, the service stays when this
        process ends, and deploying again updates it, replica by replica.

    Raises:
        ConnectionError: If there is no cluster at the address.
        DeploymentError: If no replica could be made; says what the last one said.
    """
    connect(address)
    serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
    try:
        serve.run(app, name=APP_NAME, route_prefix="/")
    except RuntimeError:
        raise DeploymentError(_why_not()) from None
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _why_not() -> str:
    """Return the last error of a replica that could not be made."""
    told = [deployment.message for deployment in serve.status().applications[APP_NAME].deployments.values()]
    lines = [line for message in told for line in message.splitlines() if re.match(r"\S*(Error|Exception)\b.*:", line)]
    return _without_module(lines[-1]) if lines else "; ".join(told)


def _without_module(line: str) -> str:
    name, _, message = line.partition(": ")
    return f"{name.rpartition('.')[2]}: {message}"


def stop_signal() -> threading.Event:
    """Return what is set at SIGTERM from now on; to be called when connected, since Ray has a handler of its own."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def end() -> None:
    """End the service and the cluster that this process started, within seconds; some requests may be cut off."""
    serve.shutdown()
    ray.shutdown()
