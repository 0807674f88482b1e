"""The public surface of the package."""

import inspect
import subprocess
import sys

import pytest

import seesay


@pytest.mark.parametrize("name", seesay.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(seesay, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith("seesay")


def test_all_is_sorted_and_equals_the_import_table() -> None:
    assert seesay.__all__ == sorted(seesay.__all__) == sorted(seesay._HOMES)
    assert set(seesay.__all__) <= set(dir(seesay))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'captions'"):
        _ = seesay.captions


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, seesay; print([m for m in ('torch', 'lightning', 'timm', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_explain_is_the_function_even_after_importing_its_module() -> None:
    code = "import seesay.explanation.explain, seesay; from seesay import explain; print(callable(explain))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"
