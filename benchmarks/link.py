"""Two processes in network namespaces of their own, joined by a cable of a given rate and delay.

The namespaces have no names: they, and the cable between them, last as long as the processes in
them. So there is nothing to clean up, whatever ends the processes.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from math import inf

TOOLS = ("ip", "tc", "unshare", "nsenter")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
DEVICE = "cable"  # the name of either end in its namespace
CONGESTION = "/proc/sys/net/ipv4/tcp_congestion_control"
BURST = 80_000  # bytes that pass at once: above the 65,536 of the largest packet, which stay whole
QUEUE = 64_000_000  # bytes that wait in front of the cable before any are lost


def refusal() -> str | None:
    """Why there can be no link on this machine, if so."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} missing (Debian: iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def apart(command: Sequence[str]) -> list[str]:
    """The command in a network namespace of its own. It keeps the number of its process."""
    return ["unshare", "--net", "--", *command]


class Link:
    """The cable between two processes' namespaces. ADDRESSES says what they call each other.

    Args:
        processes: numbers of two processes that run already, each `apart`.

    Raises:
        ValueError: the machine refuses.
    """

    def __init__(self, processes: tuple[int, int]) -> None:
        self._inside = [("nsenter", f"--net=/proc/{number}/ns/net") for number in processes]
        ends = [(DEVICE, "netns", str(number)) for number in processes]
        _run("ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for inside, address in zip(self._inside, ADDRESSES):
            _run(*inside, "ip", "address", "add", f"{address}/24", "dev", DEVICE)
            # The machine's own choice may be one that pauses now and then to sound the path out.
            _run(*inside, "sh", "-c", f"echo reno > {CONGESTION}")
            for device in ("lo", DEVICE):
                _run(*inside, "ip", "link", "set", device, "up")
        self._limited = False

    def limit(self, mbit: float = inf, delay: float = 0.0) -> None:
        """Set what the cable carries each way.

        Args:
            mbit: a million bits a second; inf for as many as the machine moves.
            delay: milliseconds from end to end.

        Raises:
            ValueError: the kernel has no queue of the kind (netem for a delay, else tbf).
        """
        for inside in self._inside:
            if self._limited:
                _run(*inside, "tc", "qdisc", "delete", "dev", DEVICE, "root")
            if queue := _queue(mbit, delay):
                _run(*inside, "tc", "qdisc", "add", "dev", DEVICE, "root", *queue)
        self._limited = bool(_queue(mbit, delay))


def _queue(mbit: float, delay: float) -> list[str]:
    """The words by which tc knows the queue in front of the cable."""
    rate = [] if mbit == inf else ["rate", f"{mbit * 1e6:.0f}bit"]
    if delay:
        return ["netem", *rate, "delay", f"{delay}ms", "limit", "100000"]
    return ["tbf", *rate, "burst", str(BURST), "limit", str(QUEUE)] if rate else []


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(command[2:] if command[0] == "nsenter" else command)
        raise ValueError(f"{shown}: {done.stderr.strip()}")
