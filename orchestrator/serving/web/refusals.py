"""Why a request is not answered with rows: a status, a sentence, and what would be valid."""

from collections.abc import Sequence

RETRY_SECONDS = 2


class Refused(Exception):  # noqa: N818
    """Ends a request with an HTTP status; `valid` lists what the client could have sent."""

    def __init__(self, status: int, detail: str, valid: Sequence[str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.valid = None if valid is None else list(valid)

    @property
    def headers(self) -> dict[str, str]:
        """What the status asks for besides a body."""
        if self.status == 503:
            return {"Retry-After": str(RETRY_SECONDS)}
        return {"WWW-Authenticate": 'Bearer realm="asd"'} if self.status == 401 else {}

    def body(self) -> dict[str, object]:
        """The answer's JSON, a `Problem`."""
        return {"detail": self.detail} | ({} if self.valid is None else {"valid": self.valid})
