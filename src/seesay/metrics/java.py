"""The original METEOR and SPICE from the jars of pycocoevalcap (extra `coco`).

Requirements are checked first: pycocoevalcap would download SPICE's parser on first use, and its pipes hang or break
without Java.
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
    """Checks that a jar's metric can be computed.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: Java or a file of the jar is missing.
    """
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MissingDependencyError("pycocoevalcap", "coco", metric)
    folder = Path(next(iter(package.submodule_search_locations)))
    if shutil.which("java") is None:
        raise DataError(
            f"{metric} needs Java, and no java is on PATH; install a Java runtime or remove {metric} from the metrics"
        )
    missing = [Path(name).name for name in _NEEDED[metric] if not (folder / name).is_file()]
    if missing:
        target = (folder / _NEEDED[metric][-1]).parent
        hint = f"; {_SOURCES[metric]}" if metric in _SOURCES else "; reinstall pycocoevalcap"
        raise DataError(f"{metric} needs {' and '.join(missing)} in {target}{hint}")


def jar_scores(
    metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, Floats, str]:
    """Returns the corpus value of a jar's metric, its value per image, (B,), and its release for the signature.

    Args:
        metric: `METEOR-jar` or `SPICE`.
        hypotheses: one tokenized caption per image.
        references: tokenized captions of each image.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        DataError: a requirement is missing, or Java did not score every image.
    """
    require_jar(metric)
    references_by_image = {number: list(image) for number, image in enumerate(references)}
    hypotheses_by_image = {number: [caption] for number, caption in enumerate(hypotheses)}
    run = _meteor if metric == METEOR_JAR else _spice
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # from pycocoevalcap
        try:
            corpus, per_image = run(references_by_image, hypotheses_by_image)
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            raise DataError(
                f"{metric} was not computed: its Java program failed ({error}); check that there is enough memory"
            ) from error
    values = np.asarray(per_image, np.float64)
    if values.shape != (len(hypotheses),) or not np.isfinite(values).all() or not np.isfinite(corpus):
        raise DataError(f"{metric} was not computed: its Java program returned no number for some images")
    return float(corpus), values, f"{Path(_NEEDED[metric][0]).stem}:pycocoevalcap-{version('pycocoevalcap')}"


def _meteor(
    references_by_image: dict[int, list[str]], hypotheses_by_image: dict[int, list[str]]
) -> tuple[float, list[float]]:
    from pycocoevalcap.meteor.meteor import Meteor

    scorer: Any = Meteor()
    process = scorer.meteor_p
    try:
        corpus, per_image = scorer.compute_score(references_by_image, hypotheses_by_image)
    finally:
        process.kill()
        process.communicate()  # closes the three pipes, which the class leaves open
        if scorer.lock.locked():  # it keeps the lock on failure, and its destructor would wait for it
            scorer.lock.release()
    return corpus, per_image


def _spice(
    references_by_image: dict[int, list[str]], hypotheses_by_image: dict[int, list[str]]
) -> tuple[float, list[float]]:
    from pycocoevalcap.spice.spice import Spice

    corpus, per_image = Spice().compute_score(references_by_image, hypotheses_by_image)
    return corpus, [scores["All"]["f"] for scores in per_image]
