"""The exception tree of isoform: every error raised on purpose, under one root.

    IsoformError
    ├── UsageError          an invalid flag or argument
    ├── MissingExtraError   an optional package is not installed
    ├── SpecError           an invalid network description
    ├── SignatureError      an invalid or incompatible signature
    ├── BundleError         an invalid or incomplete bundle directory
    ├── InputError          samples or images of the wrong shape, dtype, range or format
    ├── DataError           a training data set that cannot be read
    ├── RecipeError         an invalid training recipe
    ├── CheckpointError     a training checkpoint that cannot be resumed
    ├── CompileError        compilation failed, or its result disagrees with torch
    ├── EngineError         ONNX Runtime cannot load or run the graph
    ├── StoreError          the server's database cannot be used
    └── ConflictError       a concurrent change came first

A message says what was expected, what was found, where, and what to do. The command line prints
it on one line and exits with code 2; the server responds with a 4xx status and the same text.
This module imports nothing.
"""

__all__ = [
    "BundleError",
    "CheckpointError",
    "CompileError",
    "ConflictError",
    "DataError",
    "EngineError",
    "InputError",
    "IsoformError",
    "MissingExtraError",
    "RecipeError",
    "SignatureError",
    "SpecError",
    "StoreError",
    "UsageError",
    "first_line",
    "printable",
]


def printable(text: str) -> str:
    """Return a text in which line breaks, control characters and undecodable bytes are escaped."""
    # Names of files and classes may hold anything: unescaped, one could forge a second line in the log or steer the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class IsoformError(Exception):
    """Base class of all errors that isoform raises on purpose. The message is one printable line."""

    def __str__(self) -> str:
        """Return the message with line breaks and undecodable bytes escaped."""
        return printable(super().__str__())


class UsageError(IsoformError):
    """An invalid command-line flag or function argument."""


class MissingExtraError(IsoformError):
    """An optional package is not installed; the message has the pip command."""


class SpecError(IsoformError):
    """An invalid network description: a size out of range or an unknown kind."""


class SignatureError(IsoformError):
    """A signature that is damaged, malformed, not finite, or made for different templates."""


class BundleError(IsoformError):
    """A bundle directory that is incomplete, damaged, or not compiled."""


class InputError(IsoformError):
    """Samples of the wrong shape, dtype or range, or a file that is not an image."""


class DataError(IsoformError):
    """A data set or download that is missing, damaged or in an unexpected format."""


class RecipeError(IsoformError):
    """A training recipe with an unknown field or a value out of range."""


class CheckpointError(IsoformError):
    """A checkpoint that is damaged or belongs to a different recipe."""


class CompileError(IsoformError):
    """Compilation failed, or the compiled graph disagrees with the trained network."""


class EngineError(IsoformError):
    """ONNX Runtime rejected the graph or the session options, or failed to run it."""


class StoreError(IsoformError):
    """The server's database cannot be opened or does not respond."""


class ConflictError(IsoformError):
    """The newest revision is not the one the caller expected; read it and decide again."""


def first_line(problem: BaseException) -> str:
    """Return the first line of an exception's message; its class if the message is empty."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
