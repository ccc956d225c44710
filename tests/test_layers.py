"""The import arrows of DESIGN.md, read from the sources, and what a process imports when it is started."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LETHE = ROOT / "lethe"

# From left to right: a package or module never imports one to its left, nor one between the same two arrows.
ARROWS = (
    ("cli", "settings"),
    ("tuning",),
    ("sweeps", "audits"),
    ("experiment",),
    ("command_line",),
    ("termination",),
    ("tracking", "report"),
    ("unlearn", "evaluation"),
    ("training",),
    ("models", "data"),
    ("registry",),
    ("plugins",),
    ("user_files",),
    ("signature",),
    ("system",),
    ("nearest_name", "flag_error", "flag_words"),
    ("commands",),
    ("checkout", "version"),
)
LEVEL = {name: level for level, names in enumerate(ARROWS) for name in names}
WITH_A_REGISTRY = ("unlearn", "evaluation", "models", "data")
SILENT = (*WITH_A_REGISTRY, "training")
SOURCES = sorted(
    path for part in LETHE.iterdir() for path in ([part] if part.suffix == ".py" else part.rglob("*.py"))
)


def imports_of(source: str, package: str = "") -> Iterator[str]:
    """The full names of everything that is imported anywhere: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def imports_in(path: Path) -> frozenset[str]:
    return frozenset(imports_of(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts)))


def libraries_in(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_in(path)}


def parts_in(path: Path) -> set[str]:
    """The packages and modules of lethe that a file imports, other than its own."""
    names = {name.split(".")[1] for name in imports_in(path) if name.startswith("lethe.")}
    return names & LEVEL.keys() - {home_of(path)}


def home_of(path: Path) -> str:
    """The package of a file in lethe, or the module that it is."""
    return path.relative_to(LETHE).parts[0].removesuffix(".py")


def sources_of(*packages: str) -> list[Path]:
    return [path for path in SOURCES if home_of(path) in packages]


def name_of(path: Path) -> str:
    return str(path.relative_to(LETHE))


def test_the_walk_sees_imports_wherever_they_stand():
    source = (
        "if TYPE_CHECKING:\n    import a.b\n"
        "def f():\n    from c import d\n    from . import e\n    from ..g import h\n"
    )

    assert set(imports_of(source, "x.y")) == {"a.b", "c.d", "x.y.e", "x.g.h"}


def test_everything_has_a_place_in_the_design():
    assert {home_of(path) for path in SOURCES} - {"__init__", "__main__"} == LEVEL.keys()


def test_imports_run_one_way():
    wrong = [
        f"{name_of(path)} imports {part}"
        for path in SOURCES
        for part in parts_in(path)
        if LEVEL[part] <= LEVEL.get(home_of(path), -1)
    ]
    assert wrong == []


def test_the_scripts_at_the_root_are_a_few_lines():
    scripts = list(ROOT.glob("*.py"))

    assert scripts
    assert max(len(path.read_text().splitlines()) for path in scripts) < 12


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """The modules that each module imports: at its top, in functions and under TYPE_CHECKING."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {}
    for module, path in modules.items():
        names = imports_in(path)
        imported = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = imported & set(modules) - {module}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules that import each other in a circle, directly or through others."""
    left = dict(graph)
    while free := [module for module, imported in left.items() if not imported & set(left)]:
        for module in free:
            del left[module]
    return sorted(left)


def test_a_circle_is_found_and_what_leads_to_it():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["a", "b", "c"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_imports_go_in_circles():
    graph = import_graph()

    assert {"lethe.experiment.identity", "lethe.experiment.record"} <= graph["lethe.experiment.pipeline"]
    assert circle_in(graph) == []


def registering_modules(package: str) -> set[str]:
    """The modules of a package that register something; a package of its own (unlearn/mimu) stands for its
    files.
    """
    folder = LETHE / package
    registering = [p for p in folder.rglob("*.py") if p.name != "impl.py" and "\n@register(" in p.read_text()]
    return {f"lethe.{package}.{Path(path.relative_to(folder).parts[0]).stem}" for path in registering}


@pytest.mark.parametrize("package", WITH_A_REGISTRY)
def test_impl_imports_nothing_that_registers(package):
    imported = imports_in(LETHE / package / "impl.py")
    registering = registering_modules(package)

    assert registering
    assert not {name for name in imported for module in registering if f"{name}.".startswith(f"{module}.")}


@pytest.mark.slow
def test_importing_a_package_registers_all_of_it():
    program = f"import sys, {', '.join(f'lethe.{name}' for name in WITH_A_REGISTRY)}; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()

    assert set().union(*map(registering_modules, WITH_A_REGISTRY)) <= set(imported)


def test_numbers_know_no_tracking_no_command_line_no_files():
    unknown = {"mlflow", "argparse", "pathlib", "os", "tempfile", "shutil"}
    wrong = {name_of(path): libraries_in(path) & unknown for path in sources_of("unlearn", "evaluation")}

    assert {name: libraries for name, libraries in wrong.items() if libraries} == {}


def test_mlflow_is_imported_in_tracking_alone():
    assert {home_of(path) for path in SOURCES if "mlflow" in libraries_in(path)} == {"tracking"}


def test_matplotlib_draws_the_figures_of_a_comparison_alone():
    assert {name_of(path) for path in SOURCES if "matplotlib" in libraries_in(path)} == {
        "report/comparison_page.py",
        "report/comparison_pictures.py",
        "report/figure_files.py",
    }


def test_libraries_print_nothing():
    calls = [
        (name_of(path), node.lineno)
        for path in sources_of(*SILENT)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def python_without(folder: Path, modules: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python where importing any of these modules fails, as if they were not installed."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'BLOCKED {name}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_block_blocks(tmp_path):
    done = python_without(tmp_path, ("mlflow",), "-c", "import mlflow")

    assert done.returncode == 1
    assert "BLOCKED mlflow" in done.stderr


HELP = """
import mlflow_forget
for words in ("--help", "--unlearn MIMU --help", "--list"):
    try:
        code = mlflow_forget.main(words.split())
    except SystemExit as end:
        code = end.code
    print(code, end=chr(12))
"""


@pytest.mark.slow
def test_help_needs_neither_mlflow_nor_torchvision(tmp_path):
    done = python_without(tmp_path, ("mlflow", "torchvision"), "-c", HELP)
    pages = done.stdout.split("\f")[:-1]

    assert (done.returncode, done.stderr) == (0, "")
    assert all(page.endswith("\n0") and "--unlearn" in page for page in pages)
    assert ["--gcn_steps" in page for page in pages] == [False, True, False]


@pytest.mark.slow
def test_training_runs_where_mlflow_is_not_installed(tmp_path):
    done = python_without(tmp_path, ("mlflow",), str(ROOT / "main_baseline.py"), "--epochs", "1")

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "results/digits/1mlp_ep1.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["plain", "count", "policy"],
)
def test_threads_wait_briefly_unless_the_environment_says_otherwise(given, spins):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    } | given
    asked = """
import os, lethe.command_line
print(os.environ['OMP_WAIT_POLICY'], os.environ.get('GOMP_SPINCOUNT'))
"""
    said = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert said.stdout.split() == [given.get("OMP_WAIT_POLICY", "PASSIVE"), spins]
