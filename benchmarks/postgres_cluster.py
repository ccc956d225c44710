"""Start a PostgreSQL server from installed binaries on a free port, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

USER = "postgres"
# Without fsync: the data may be lost, and are made again.
FAST = "-c fsync=off -c full_page_writes=off -c shared_buffers=128MB -c max_connections=100"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl; None where PostgreSQL is not installed."""
    found = shutil.which("pg_ctl")
    if found and shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [
        path.parent
        for path in Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
        if (path.parent / "initdb").exists()
    ]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URI of a server whose data are in `folder` (made at the first use), while the context is open.

    It answers on this machine alone, without a password. Raises ValueError where PostgreSQL is not installed
    or does not start.
    """
    programs = binaries()
    if programs is None:
        raise ValueError("expected PostgreSQL, got no pg_ctl. Install it, e.g. apt-get install postgresql")
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, USER)
    data, port = folder / "data", free_port()
    if not (data / "PG_VERSION").exists():
        run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "--locale=C.UTF-8",
            ]
        )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 {FAST}"
    run([programs / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start"])
    try:
        yield f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/{USER}"
    finally:
        run([programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"])


def new_database(server: str, name: str) -> str:
    """The URI of a new database of that server; one of that name is dropped."""
    return changed(server, name, f'DROP DATABASE IF EXISTS "{name}"', f'CREATE DATABASE "{name}"')


def renamed(server: str, name: str, new: str) -> str:
    """The URI of a database that nobody is connected to, under its new name."""
    return changed(server, new, f'ALTER DATABASE "{name}" RENAME TO "{new}"')


def changed(server: str, name: str, *statements: str) -> str:
    with closing(connected(server)) as connection:
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
    return uri_of(server, name)


def uri_of(server: str, name: str) -> str:
    return f"{server.rpartition('/')[0]}/{name}"


def connected(uri: str) -> Any:
    import psycopg2

    return psycopg2.connect(uri.replace("+psycopg2", "", 1))


def run(command: Sequence[str | Path]) -> None:
    words = [*(["runuser", "-u", USER, "--"] if os.getuid() == 0 else []), *map(str, command)]
    done = subprocess.run(
        words, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise ValueError(
            f"expected {command[0]} to succeed, got {' '.join(done.stderr.split()) or done.returncode}"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
