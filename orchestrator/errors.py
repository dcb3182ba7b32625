"""Errors that a user can cause: each says what is wrong, where, what would be valid and what to run next."""


class UserError(ValueError):
    """Base of everything that a better input would avoid; the command line prints it without a traceback."""


class ConfigError(UserError):
    """A study file or an override is not valid."""


class DataError(UserError):
    """Recordings are missing, broken or contradictory."""


class StorageError(UserError):
    """A folder cannot be read, written or locked."""


class ResourceError(UserError):
    """The cluster has less than the study asks for."""


class TrainingError(UserError):
    """A member could not be trained (for example, its loss is not finite)."""


class SubmissionError(UserError):
    """Challenge files are missing, doubled or malformed."""


def first_line(error: BaseException) -> str:
    """What an error says, without what libraries add below; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
