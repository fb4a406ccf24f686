"""Work beside the training: one piece at a time, whose error is raised where it is asked for."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread that does one piece of work at a time. It is made when there is some."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin with it, once the work before is done.

        Raises:
            Exception: what the work before raised; this one is not begun then.
        """
        self.wait()
        self._work = self._thread.submit(work)

    def check(self) -> None:
        """Say whether the work has failed, without waiting for it.

        Raises:
            Exception: what the work raised, once.
        """
        if self._work is not None and self._work.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the work is done.

        Raises:
            Exception: what the work raised, once.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()
