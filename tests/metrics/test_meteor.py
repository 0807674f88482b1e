import dataclasses
import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from seesay.errors import DataError, MissingDependencyError
from seesay.metrics.meteor import Meteor, available, meteor_from_statistics
from seesay.metrics.meteor.alignment import BEAM, align
from seesay.metrics.meteor.matching import EXACT, PARAPHRASE, STEM, SYNONYM, Match
from seesay.metrics.meteor.normalise import normalise
from seesay.metrics.meteor.score import CHUNKS, STATISTICS
from seesay.metrics.meteor.stemmer import stem
from seesay.metrics.meteor.tables import find_tables
from tests.metrics.meteor_cases import sentences
from tests.metrics.meteor_jar import STORED, additive

pytestmark = []
