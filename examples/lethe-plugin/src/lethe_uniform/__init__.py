"""A method and a metric for Lethe."""
