"""`mslt`, with a plan to be killed: python -m torture.victim PLAN WORDS...

PLAN is a list in JSON of [rank, where, number]. In the nth start by torchrun, the process of that
rank in the nth entry is killed at a named point the time of that number, or `where` seconds after
its first step began.
"""

import json
import os
import signal
import sys
from threading import Timer

from torture.faults import POINTS, nothing, wrap

Plan = list[tuple[int, str | float, int]]


def kills(plan: Plan) -> None:
    """Arrange for this process to be killed, if it is its turn."""
    start = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if start >= len(plan) or plan[start][0] != int(os.environ.get("RANK", "0")):
        return
    _, where, number = plan[start]
    if isinstance(where, str):
        next(point for point in POINTS if point.name == where).kill(number)
    else:
        timer = Timer(where, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        wrap("mslt.trainer.Trainer.step", lambda *_: timer.is_alive() or timer.start(), nothing)


if __name__ == "__main__":
    kills(json.loads(sys.argv[1]))
    from mslt.cli import main

    sys.exit(main(sys.argv[2:]))
