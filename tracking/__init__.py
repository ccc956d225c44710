"""MLflow: runs are written here, and read back. The only package that imports mlflow."""
