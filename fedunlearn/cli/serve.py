"""``fedunlearn serve``: run the deletion service until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedunlearn.errors import FedunlearnError

if TYPE_CHECKING:
    from fedunlearn.service.server import DeletionServer

_FILE = click.Path(path_type=Path)
state_option = click.option(
    "--state",
    type=_FILE,
    required=True,
    metavar="DIR",
    help="State folder: service.toml, requests.db, issuer.key, models.",
)
database_option = click.option(
    "--database",
    metavar="URL",
    help="URL of another request store, as postgresql+psycopg://user@host/database.",
)


@click.command()
@state_option
@database_option
@click.option("--listen", metavar="HOST:PORT", help="Address to listen on; port 0 for a free port.")
@click.option("--metrics", metavar="HOST:PORT", help="Address for Prometheus to scrape.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Private key of the certificate, PEM.")
@click.option(
    "--client-ca", type=_FILE, metavar="FILE", help="Require client certificates of this CA."
)
@click.option("--reflection", is_flag=True, help="Enable gRPC server reflection.")
def serve(
    state: Path,
    database: str | None,
    listen: str | None,
    metrics: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    reflection: bool,
) -> None:
    """Run the deletion service, which accepts deletion requests over gRPC.

    The state folder is created if it does not exist. Without a certificate, the service listens on
    the loopback interface only. SIGTERM and Ctrl-C stop it after the running calls have finished.
    """
    # Otherwise gRPC logs every failed handshake of unknown clients.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedunlearn.service.server import DeletionServer
    from fedunlearn.service.state import open_state

    changes: dict[str, object] = {
        key: value
        for key, value in {
            "listen": listen,
            "metrics": metrics,
            "tls-certificate": _absolute(tls_cert),
            "tls-key": _absolute(tls_key),
            "client-ca": _absolute(client_ca),
            "reflection": reflection or None,
        }.items()
        if value is not None
    }
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: stop.set())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    with open_state(state, database, changes=changes) as opened:
        with DeletionServer(opened.store, opened.settings) as server:
            if opened.settings.metrics is not None:
                where = server.metrics.listen(opened.settings.metrics)
                click.echo(f"metrics on http://{where}/metrics")
            try:
                address = server.start()
                secured = "TLS" if opened.settings.tls_certificate else "plain text"
                click.echo(f"listening on {address} ({secured})")
                _wait(stop, server)
            finally:
                server.metrics.close()
        click.echo("stopped")


def _wait(stop: threading.Event, server: DeletionServer) -> None:
    while not stop.wait(1.0):
        if not server.running:
            raise FedunlearnError("the server has failed; see its log")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
