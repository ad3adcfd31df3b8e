"""The lab's router: Routes of a real API server become the configuration of a real HAProxy, by OpenShift's rules.

Usage: PYTHONPATH=tests:scripts:images python -m lab.router --kubeconfig FILE --folder DIR --http-port 80
       --https-port 443 --bind ADDRESS [--health-port N] [--reload-seconds 5] [--domain localhost]

Inputs   Routes, Services and EndpointSlices of all namespaces, by list and watch
Outputs  HAProxy on two ports; `status.ingress` of every Route; `spec.host` of those that name none (on OpenShift the
         API server fills it in, a Route CRD does not); DIR/router.log, DIR/haproxy.log, DIR/router-ca.crt, DIR/haproxy/
Health   GET http://127.0.0.1:HEALTH_PORT/healthz, and on ADDRESS: 200 once HAProxy runs the Routes of the API, else 503
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import logging.handlers
import signal
import threading
from pathlib import Path
from typing import Any

from isotherm import tekton
from isotherm_local import admission, kinds
from isotherm_local.haproxy import HAProxy, program
from isotherm_local.kinds import Object
from isotherm_local.routing import RouterController
from isotherm_local.supervisor import LOG_LIMIT_BYTES, Children
from isotherm_local.translation import IDLE_CONNECTIONS, Listeners, Snapshot
from lab import router_certificate
from lab.router_watch import Watched

ROUTES = (kinds.ROUTE.group, kinds.ROUTE.version, kinds.ROUTE.plural)
WRITE_SECONDS = 4.0
log = logging.getLogger("lab.router")


class ClusterRouter(RouterController):
    """The router's loop over the watches of an API server. Make it within the running loop."""

    def __init__(self, haproxy: HAProxy, api_client: Any, reload_seconds: float, domain: str, resync: float) -> None:
        from kubernetes import client

        super().__init__(haproxy, reload_seconds, domain)
        loop = asyncio.get_running_loop()
        self.custom = client.CustomObjectsApi(api_client)

        def routes(**options: Any) -> Any:
            return self.custom.list_cluster_custom_object(*ROUTES, **options)

        def notice() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, this thread has a moment left
                loop.call_soon_threadsafe(self.changed.set)

        services = client.CoreV1Api(api_client).list_service_for_all_namespaces
        slices = client.DiscoveryV1Api(api_client).list_endpoint_slice_for_all_namespaces
        calls = {"routes": routes, "services": services, "endpointslices": slices}
        self.watches = {name: Watched(name, call, notice, resync) for name, call in calls.items()}

    def watch(self) -> None:
        """Start the watches; they end with the process."""
        for name, watched in self.watches.items():
            threading.Thread(target=watched.run, name=f"watch-{name}", daemon=True).start()

    def snapshot(self) -> Snapshot | None:
        """Return what the watches know; None before each has listed once, as half a list would drop Routes."""
        routes, services, slices = (watched.objects() for watched in self.watches.values())
        if routes is None or services is None or slices is None:
            return None
        return Snapshot(routes, services, slices)

    async def reconcile(self, snapshot: Snapshot) -> None:
        """Do one pass; hosts filled in by it are seen by the next one, as the watch tells of them."""
        await self.apply(snapshot)
        nameless = {r["metadata"]["uid"] for r in snapshot.routes if await self._fill_host(r)}
        left = [route for route in snapshot.routes if route["metadata"]["uid"] not in nameless]
        await self.admit(Snapshot(left, snapshot.services, snapshot.slices))

    async def _fill_host(self, route: Object) -> bool:
        """Give a Route that names no host a generated one; tells whether it was tried."""
        host = kinds.generated_host(route["metadata"], self.domain)
        if admission.host_of(route) or not admission.is_host(host):
            return False
        await self._patch(self.custom.patch_namespaced_custom_object, route, {"spec": {"host": host}})
        return True

    async def write_ingress(self, route: Object, entries: list[Object]) -> None:
        """Patch the status subresource of the Route that was judged, not of a later version of it."""
        body = {"status": {"ingress": entries}}
        await self._patch(self.custom.patch_namespaced_custom_object_status, route, body)

    async def _patch(self, call: Any, route: Object, body: Object) -> None:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        metadata, (group, version, plural) = route["metadata"], ROUTES
        namespace, name = metadata["namespace"], metadata["name"]
        where = f"Route {namespace}/{name}"
        body = body | {"metadata": {"resourceVersion": metadata["resourceVersion"]}}
        arguments = (group, version, namespace, plural, name, body)
        try:
            await asyncio.to_thread(functools.partial(call, *arguments, _request_timeout=WRITE_SECONDS))
        except ApiException as error:
            if error.status in (404, 409):  # deleted or changed meanwhile: the watch tells, and it is judged anew
                return
            if 400 <= error.status < 500 and error.status != 429:
                log.error("%s cannot be written: %s %s", where, error.status, str(error.body)[:300])
                return
            raise tekton.Unavailable(f"{where}: HTTP {error.status}", remedy="it is tried again") from error
        except HTTPError as error:
            raise tekton.Unavailable(f"{where}: the API server does not answer", remedy="it is tried again") from error


async def _health(controller: RouterController, address: str, port: int) -> asyncio.Server:
    """Answer GET /healthz."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                await reader.readline()
                status, text = ("200 OK", "ok") if controller.ready else ("503 Service Unavailable", "not ready")
                head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n{text}".encode())
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, sorted({"127.0.0.1", address}), port)


def _api_client(kubeconfig: Path) -> Any:
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    configuration.retries = False  # the watches and the loop repeat, each in its own way
    return client.ApiClient(configuration)


async def serve(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT; HAProxy ends with it. Raises where HAProxy cannot run at all."""
    folder: Path = arguments.folder.resolve()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    router_certificate.install(folder, arguments.domain, arguments.bind, arguments.certificate)
    children = Children(folder / "children.json")
    listeners = Listeners(arguments.http_port, arguments.https_port, arguments.bind, arguments.idle_connections)
    haproxy = HAProxy(folder / "haproxy", listeners, children, program())
    controller = ClusterRouter(
        haproxy,
        _api_client(arguments.kubeconfig),
        arguments.reload_seconds,
        arguments.domain,
        arguments.resync_seconds,
    )
    controller.watch()
    health = await _health(controller, arguments.bind, arguments.health_port) if arguments.health_port else None
    running, stopped = asyncio.create_task(controller.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        running.cancel()
        stopped.cancel()
        if health is not None:
            health.close()
        await asyncio.to_thread(children.end_all)
        log.info("router: ended")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="state, logs and HAProxy's files")
    parser.add_argument("--http-port", type=int, default=80)
    parser.add_argument("--https-port", type=int, default=443)
    parser.add_argument("--health-port", type=int, default=0, help="port of /healthz (default: none)")
    parser.add_argument("--bind", default="127.0.0.1", help="IPv4 address to listen on (default: %(default)s)")
    parser.add_argument("--domain", default=admission.DOMAIN, help="generated hosts end in .apps.DOMAIN")
    parser.add_argument("--certificate", type=Path, help="PEM with key and certificate (default: a self-made one)")
    parser.add_argument("--reload-seconds", type=float, default=5.0, help="RELOAD_INTERVAL (default: %(default)s)")
    parser.add_argument("--idle-connections", choices=IDLE_CONNECTIONS, default=IDLE_CONNECTIONS[0],
                        help="idleConnectionTerminationPolicy (default: %(default)s)")  # fmt: skip
    parser.add_argument("--resync-seconds", type=float, default=300.0, help="time between lists (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept = logging.handlers.RotatingFileHandler(
        arguments.folder / "router.log", maxBytes=LOG_LIMIT_BYTES, backupCount=1
    )
    handlers: list[logging.Handler] = [kept, logging.StreamHandler()]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=handlers)
    return tekton.main(lambda: asyncio.run(serve(arguments)))


if __name__ == "__main__":
    raise SystemExit(main())
