"""Parsing of C sources."""

import re
from pathlib import Path


def struct_fields(path: Path, name: str) -> list[str]:
    """Return the names of the fields of a struct in order."""
    source = path.read_text()
    start = source.index(f"struct {name} {{")
    body = re.sub(r"/\*.*?\*/", "", source[start : source.index("};", start)], flags=re.DOTALL)
    return re.findall(r"[*\s](\w+)\s*(?=[,;])", body)
