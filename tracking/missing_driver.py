"""The error for a database whose Python driver is not installed."""

from __future__ import annotations

from tracking.shown_uri import without_password

PACKAGES = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "PyMySQL",
}  # module -> what pip calls it, where they differ


def missing_driver_error(uri: str, error: ImportError) -> ValueError:
    """Return the error for a URI whose driver is not installed."""
    module = error.name or "the driver"
    package = PACKAGES.get(module, module)
    return ValueError(
        f"expected the driver of {without_password(uri)} to be installed, got {error}. Install it: pip "
        f"install '{package}'"
    )
