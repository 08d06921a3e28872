"""The input of a network, and how its samples are read from files.

input.py    name, dtype and shape
reading.py  columns and windows of recordings, spectrograms of sounds
checks.py   numbers in such descriptions
"""

from isoform.runtime.inputs.checks import check_scaling, is_whole
from isoform.runtime.inputs.input import AXES, Input, What
from isoform.runtime.inputs.reading import Reading, Sound

__all__ = ["AXES", "Input", "Reading", "Sound", "What", "check_scaling", "is_whole"]
