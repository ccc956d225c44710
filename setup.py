"""Where the packages lie: lethe.unlearn, lethe.models and lethe.evaluation are folders beside lethe/."""

from setuptools import find_packages, setup

BESIDE = ("unlearn", "models", "evaluation")
inside = {f"lethe.{name}" for top in BESIDE for name in find_packages(include=[top, f"{top}.*"])}
packages = sorted({*find_packages(include=["lethe", "lethe.*"]), *inside})
setup(packages=packages, package_dir={f"lethe.{name}": name for name in BESIDE})
