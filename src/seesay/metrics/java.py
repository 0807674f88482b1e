"""METEOR and SPICE of the jars that pycocoevalcap ships, for those who want the originals (extra `coco`).

What they need is checked first, because pycocoevalcap would download SPICE's parser at its first use, and because
its pipes hang or break where Java is absent.
"""

import contextlib
import io
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seesay.errors import DataError, MissingDependencyError

Floats = npt.NDArray[np.float64]

METEOR_JAR, SPICE = "METEOR-jar", "SPICE"
_NEEDED = {
    METEOR_JAR: ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    SPICE: (
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ),
}
_SOURCES = {SPICE: "they are in stanford-corenlp-full-2015-12-09.zip of the Stanford NLP group"}


def require_jar(metric: str) -> None:
    """Checks that a jar's score can be computed.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: Java or one of the jar's own files is missing; the message names them.
    """
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MissingDependencyError("pycocoevalcap", "coco", metric)
    folder = Path(next(iter(package.submodule_search_locations)))
    if shutil.which("java") is None:
        raise DataError(f"{metric} needs Java, and no java is on PATH; install a Java runtime or leave {metric} out")
    missing = [Path(name).name for name in _NEEDED[metric] if not (folder / name).is_file()]
    if missing:
        place = (folder / _NEEDED[metric][-1]).parent
        hint = f"; {_SOURCES[metric]}" if metric in _SOURCES else "; reinstall pycocoevalcap"
        raise DataError(f"{metric} needs {' and '.join(missing)} in {place}{hint}")


def jar_scores(
    metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, Floats, str]:
    """Returns the corpus value of a jar's score, its value for each image, (B,), and its release for a signature.

    Args:
        metric: `METEOR-jar` or `SPICE`.
        hypotheses: one tokenized caption an image.
        references: tokenized captions of each image.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: something else that it needs is missing, or Java ended before it had scored every image.
    """
    require_jar(metric)
    truth = {number: list(image) for number, image in enumerate(references)}
    said = {number: [caption] for number, caption in enumerate(hypotheses)}
    run = _meteor if metric == METEOR_JAR else _spice
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of pycocoevalcap's own code
        try:
            corpus, per_image = run(truth, said)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            raise DataError(
                f"{metric} was not computed: its Java program failed ({error}); is there memory?"
            ) from error
    values = np.asarray(per_image, np.float64)
    if values.shape != (len(hypotheses),) or not np.isfinite(values).all() or not np.isfinite(corpus):
        raise DataError(f"{metric} was not computed: its Java program gave no number for some images")
    return float(corpus), values, f"{Path(_NEEDED[metric][0]).stem}:pycocoevalcap-{version('pycocoevalcap')}"


def _meteor(truth: dict[int, list[str]], said: dict[int, list[str]]) -> tuple[float, list[float]]:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer: Any = Meteor()
    process = scorer.meteor_p
    try:
        corpus, per_image = scorer.compute_score(truth, said)
    finally:
        process.kill()
        process.communicate()  # closes the three pipes, which the class leaves open
        if scorer.lock.locked():  # it keeps its lock when it fails, and would wait for it as it is deleted
            scorer.lock.release()
    return corpus, per_image


def _spice(truth: dict[int, list[str]], said: dict[int, list[str]]) -> tuple[float, list[float]]:
    from pycocoevalcap.spice.spice import Spice

    corpus, per_image = Spice().compute_score(truth, said)
    return corpus, [scores["All"]["f"] for scores in per_image]
