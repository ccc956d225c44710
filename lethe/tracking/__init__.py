"""MLflow: runs are written here, and read back. The only package that imports mlflow."""

from lethe.system import needed_platform  # noqa: F401  # before a module asks for what Windows has not
