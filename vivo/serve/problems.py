"""What a request can get instead of an answer: codes and texts of the Azure interfaces, in their two shapes.

    nested (v3.2, Image Analysis 4.0)   {"error": {"code", "message", "innererror": {"code", "message"}}}
    flat   (v2.0 to v3.1)               {"code", "message", "requestId"}

The flat code is the inner one: those clients know no other.
"""

from typing import Any


class Problem(Exception):  # noqa: N818 - it is what the client did as often as what we did
    """An answer that is no description.

    Args:
        status: of HTTP. code, inner: of Azure's error models; inner "": none.
        message: one sentence for the person who wrote the client.
        retry_after: seconds, for 429 and 503.
        close: the rest of the request will not be read, so the connection must end.
    """

    def __init__(
        self, status: int, code: str, message: str, inner: str = "", retry_after: int = 0, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.inner = status, code, message, inner
        self.retry_after, self.close = retry_after, close

    def headers(self) -> dict[str, str]:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.close:
            headers["Connection"] = "close"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def nested(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner:
            error["innererror"] = {"code": self.inner, "message": self.message}
        return {"error": error}

    def flat(self, request_id: str) -> dict[str, Any]:
        return {"code": self.inner or self.code, "message": self.message, "requestId": request_id}


def invalid(inner: str, message: str, close: bool = False) -> Problem:
    """400 with an inner code."""
    return Problem(400, "InvalidRequest", message, inner, close=close)


def busy(what: str, retry_after: int, close: bool = False) -> Problem:
    """429: come again."""
    return Problem(429, "429", f"The service is busy ({what}); try again later.", "", retry_after, close)


def not_allowed() -> Problem:
    """401, in the words of Azure's gateway."""
    message = (
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an"
        " active subscription and use a correct regional API endpoint for your resource."
    )
    return Problem(401, "401", message)
