"""The connection to a scheduler, which may be lost for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cluster import ClusterError

_SECONDS_TO_TRY = 5


class ConnectionLostError(ClusterError):
    """The scheduler cannot be reached now."""


class Connection:
    """A client of a scheduler, and another one in its place when that has given up.

    A client that loses its connection lets go of all that it has sent. It tries for half a minute or so to
    connect again, and then closes itself for good.

    Parameters
    ----------
    client : distributed.Client
        It stays the caller's.

    Attributes
    ----------
    address : str
        The scheduler's.
    """

    def __init__(self, client: Any) -> None:
        self.address: str = client.scheduler.address
        self._client = client
        self._security = client.security
        self._own: list[Any] = []  # clients that were made here

    def close(self) -> None:
        """Close the clients that were made here."""
        for client in self._own:
            client.close()

    def is_up(self) -> bool:
        """Whether the scheduler can be reached; a client that has given up is replaced, if that is possible.

        That may take some seconds.
        """
        if self._client.status in ("running", "connecting"):
            return bool(self._client.status == "running")
        import distributed

        untyped: Any = distributed
        try:
            client = untyped.Client(
                self.address, timeout=_SECONDS_TO_TRY, security=self._security, set_as_default=False
            )
        except (OSError, ValueError, TypeError):  # as of `connected`
            return False
        self._client = client
        self._own.append(client)
        return True

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return a future; raise ConnectionLostError if the scheduler cannot be reached."""
        return self._call("submit", function, *arguments, **options)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what a function returns in each worker that can be reached; errors are those of `submit`."""
        answers: dict[str, Any] = self._call("run", function, *arguments, on_error="ignore")
        return list(answers.values())

    def count_workers(self) -> int:
        """Return how many workers the scheduler has; errors are those of `submit`."""
        return len(self._call("nthreads", callback_timeout=_SECONDS_TO_TRY))

    def subscribe(self, topic: str, handler: Callable[[Any], object]) -> None:
        """Let a function be called with each event of a topic; errors are those of `submit`."""
        self._call("subscribe_topic", topic, handler)

    def unsubscribe(self, topic: str) -> None:
        """End that; errors are those of `submit`."""
        self._call("unsubscribe_topic", topic)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **options)
        except Exception as error:
            # A client has many ways to say that it is closed, AttributeErrors of its own among them.
            if self._client.status == "running" and not isinstance(error, OSError):
                raise
            raise ConnectionLostError(
                f"The scheduler at {self.address} cannot be reached: {error}"
            ) from error
