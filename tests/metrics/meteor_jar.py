"""METEOR's jar, called as in pycocoevalcap, as the reference of our implementation.

python -m tests.metrics.meteor_jar

updates the stored values of `test_meteor.py`; it needs Java and pycocoevalcap.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from seesay.metrics.meteor.tables import find_tables
from tests.metrics.meteor_cases import Case, sentences

STORED = Path(__file__).with_name("meteor_expected.json")
Floats = npt.NDArray[np.float64]


class Jar:
    """A running METEOR process, as a context manager."""

    def __enter__(self) -> Self:
        command = ["java", "-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
        self._process = subprocess.Popen(
            command, cwd=find_tables(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def statistics(self, images: Sequence[Case]) -> list[str]:
        """Returns the printed line of 23 statistics of each image's best reference."""
        lines = []
        for hypothesis, references in images:
            cleaned = hypothesis.replace("|||", "").replace("  ", " ")
            self._write(" ||| ".join(("SCORE", *references, cleaned)))
            lines.append(self._read())
        return lines

    def scores(self, lines: Sequence[str]) -> Floats:
        """Returns the score of each line of statistics, followed by the corpus score."""
        self._write(" ||| ".join(("EVAL", *lines)))
        return np.array([float(self._read()) for _ in range(len(lines) + 1)])

    def _write(self, line: str) -> None:
        assert self._process.stdin
        assert "\n" not in line
        assert "\r" not in line
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().decode().strip()


def additive(lines: Sequence[str]) -> Floats:
    """Returns the jar's lines as statistics, (B, 21).

    The jar's last two numbers are sums of others, and it ignores the single chunk of a perfect match in sums.
    """
    table = np.array([line.split() for line in lines], np.float64)
    assert table.shape[1] == 23
    matched = np.stack((table[:, 4:20:2].sum(1), table[:, 5:20:2].sum(1)), axis=1)
    np.testing.assert_array_equal(matched, table[:, 21:])
    perfect = (matched == table[:, :2]).all(axis=1) & (table[:, 20] == 1)
    table[perfect, 20] = 0
    return table[:, :21]


def main() -> None:
    images = sentences()
    with Jar() as jar:
        lines = jar.statistics(images)
        *scores, corpus = jar.scores(lines).tolist()
    rows = [
        [hypothesis, references, [int(float(number)) for number in line.split()], score]
        for (hypothesis, references), line, score in zip(images, lines, scores, strict=True)
    ]
    text = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    STORED.write_text(f'{{"corpus": {corpus!r}, "images": [\n{text}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
