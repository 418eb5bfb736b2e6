"""Errors that users of `reproduce.py` meet. Each message says what is wrong and what to do. Needs no Keras."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the place and the remedy."""


class DataError(RuntimeError):
    """Data that are missing, damaged or cannot be fetched; the message says what to do."""


class TrainingError(RuntimeError):
    """A training that cannot begin or go on; the message says where it stopped and what to do."""


class CellError(RuntimeError):
    """A folder that cannot be used for a cell; the message says what to do."""


class ResultError(RuntimeError):
    """A result file that cannot be read; the message names it."""
