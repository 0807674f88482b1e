"""The dependency rules of the design: layers, no import cycles, the cost of imports, CONTRIBUTING's account."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
TIERS = (
    ("errors",),
    (
        "allocation",
        "config",
        "devices",
        "files",
        "formatting",
        "images",
        "languages",
        "logs",
        "names",
        "notebook",
        "onnx_sessions",
        "openmp",
        "outputs",
        "retries",
        "tokenizer",
    ),
    ("data", "features", "kernels", "metrics", "models"),
    ("checkpoint", "decoding", "retrieval"),
    ("captioners", "hub"),
    ("bulk", "demo", "evaluation", "explanation", "export", "review", "serving", "training"),
    ("__main__", "cli"),
)


@dataclass(frozen=True)
class Import:
    """One module's mention of another; `lazy` if it is not executed when the module is imported."""

    source: str
    target: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.glob("seesay/**/*.py"))}


def imports_of(name: str, code: str, modules: frozenset[str]) -> Iterator[Import]:
    """Yields the mentions of seesay's own modules, in functions and for the type checker too."""

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = True
            if isinstance(child, ast.Import):
                targets = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno} imports relatively"
                base = str(child.module)
                submodules = [f"{base}.{alias.name}" for alias in child.names]
                targets = [found if found in modules else base for found in submodules]
            else:
                yield from walk(child, inner)
                continue
            for target in sorted(set(targets) & modules):
                yield Import(name, target, child.lineno, lazy)

    yield from walk(ast.parse(code), False)


ALL = [
    found
    for name, path in MODULES.items()
    for found in imports_of(name, path.read_text(encoding="utf-8"), frozenset(MODULES))
]


def tier_of(name: str) -> int | None:
    """The tier of the longest prefix that has one; None of a module that the design does not place."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        for tier, members in enumerate(TIERS):
            if ".".join(parts[:length]) in members:
                return tier
    return None


def upward(found: Import) -> bool:
    # The root package holds the version and the public names, which it loads lazily; all may import it.
    if "seesay" in (found.source, found.target):
        return False
    source, target = tier_of(found.source), tier_of(found.target)
    assert source is not None
    assert target is not None
    return target > source


def load_order(found: list[Import]) -> list[str]:
    """Return modules so that each comes after those it imports, lazily or not; CycleError if there is no such order."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if "seesay" in (each.source, each.target):
            continue  # the root package loads its public names lazily; all may import its version
        wanted = graph.setdefault(each.source, set())
        parent = each.target.rpartition(".")[0]
        # Python loads a module's package before it, which matters to all who are not in that package.
        outside = parent and each.source != parent and not each.source.startswith(f"{parent}.")
        wanted |= {each.target, parent} if outside else {each.target}
        wanted.discard(each.source)
    return list(graphlib.TopologicalSorter(graph).static_order())


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_every_module_has_a_tier() -> None:
    assert len(MODULES) > 40
    assert [name for name in MODULES if name != "seesay" and tier_of(name) is None] == []


def test_imports_go_down_the_tiers() -> None:
    assert len(ALL) > 100
    wrong = [f"{found.source}:{found.line} imports {found.target}" for found in ALL if upward(found)]
    assert wrong == []


def test_no_module_imports_itself_by_a_detour() -> None:
    order = load_order(ALL)
    assert {"seesay.errors", "seesay.cli.main"} <= set(order)
    assert order.index("seesay.errors") < order.index("seesay.cli.main")


@pytest.mark.parametrize(
    ("name", "code", "is_upward"),
    [
        ("seesay.models.packing", "from seesay.training import fit", True),
        ("seesay.models.packing", "def f():\n    import seesay.decoding", True),
        ("seesay.captioners.base", "from seesay.training.train import train", True),
        ("seesay.training.train", "from seesay.training.losses import cross_entropy", False),
        ("seesay.decoding", "from seesay import config", False),
        ("seesay.decoding", "from seesay import __version__", False),
    ],
)
def test_the_check_sees_what_is_forbidden(name: str, code: str, is_upward: bool) -> None:
    (found,) = imports_of(name, code, frozenset(MODULES))
    assert upward(found) is is_upward
    assert found.lazy is code.startswith("def")


def test_the_check_sees_cycles() -> None:
    ring = [Import("seesay.a", "seesay.b", 1, False), Import("seesay.b", "seesay.a", 1, False)]
    with pytest.raises(graphlib.CycleError):
        load_order(ring)
    with pytest.raises(graphlib.CycleError):
        load_order([ring[0], Import("seesay.b", "seesay.a", 1, lazy=True)])
    assert load_order(ring[:1]) == ["seesay.b", "seesay.a"]


def test_models_know_neither_words_nor_stores() -> None:
    known = {found.target for found in ALL if found.source.startswith("seesay.models.")}
    assert not known & {"seesay.tokenizer", "seesay.images.prefetch"}
    assert not [target for target in known if target.startswith(("seesay.data", "seesay.features", "seesay.metrics"))]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("seesay", ("torch", "lightning", "numpy")),
        ("seesay.metrics", ("torch", "lightning")),
        ("seesay.captioners.base", ("torch", "lightning", "safetensors")),
        ("seesay.captioners.endpoint", ("torch", "lightning", "httpx")),
        ("seesay.bulk", ("torch", "lightning")),
        ("seesay.cli.main", ("torch", "lightning", "timm", "matplotlib", "pydantic")),
    ],
)
def test_an_import_does_not_load_what_is_heavy(module: str, heavy: tuple[str, ...]) -> None:
    loaded = run_python(f"import sys, {module}; print(*sys.modules)").split()
    assert module in loaded
    assert set(loaded) & set(heavy) == set()


def test_every_module_imports() -> None:
    for name in MODULES:
        assert importlib.import_module(name).__doc__, f"{name} has no docstring"


def test_contributing_names_every_layer() -> None:
    text = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+) \|$", text, re.MULTILINE)
    assert [sorted(re.findall(r"`([\w.]+)`", names)) for _, names in rows] == [sorted(tier) for tier in TIERS]


def test_contributing_names_things_that_exist() -> None:
    text = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = re.findall(r"`(seesay(?:\.\w+)+)`", text)
    assert len(names) > 10
    for name in names:
        parts = name.split(".")
        length = next(n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in MODULES)
        found: object = importlib.import_module(".".join(parts[:length]))
        for part in parts[length:]:
            found = getattr(found, part)
    for path in re.findall(r"`((?:src|tests|data|models|presets|config|benchmarks|docs)/[\w/.]*)`", text):
        roots = (SOURCE.parent, SOURCE / "seesay")
        assert any((root / path).exists() for root in roots), path
