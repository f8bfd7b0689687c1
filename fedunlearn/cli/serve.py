"""``fedunlearn serve``: the deletion service, until it is told to stop."""

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
    help="Request store elsewhere, as postgresql+psycopg://user@host/database.",
)


@click.command()
@state_option
@database_option
@click.option("--listen", metavar="HOST:PORT", help="Where; port 0 for one that is free.")
@click.option("--metrics", metavar="HOST:PORT", help="Where Prometheus may scrape.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--client-ca", type=_FILE, metavar="FILE", help="Ask clients for a certificate of this CA."
)
@click.option("--reflection", is_flag=True, help="Describe the service to whoever asks.")
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
    """Take deletion requests over gRPC.

    Makes the state folder where there is none. Without a certificate it listens on the loopback
    interface only. SIGTERM and Ctrl-C stop it once the calls under way have finished.
    """
    # Handshakes that strangers fail are no news.
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
            raise FedunlearnError("the server has failed; its log says where")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
