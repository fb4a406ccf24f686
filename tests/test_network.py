"""The benchmark of two processes over a slow link, and the calculation of more, in short forms."""

import json
import subprocess
import sys
import time
from math import inf
from pathlib import Path

import link
import linked
import network
import pytest
import scale
from processes import together

from mslt import reducer
from mslt.analysis.scale import BUCKET, Parts

DOCS = Path(__file__).parents[1] / "docs"

HEAR = f"""
import socket, sys
print("here", flush=True)
sys.stdin.readline()
server = socket.create_server(("{link.ADDRESSES[0]}", 5000))
print("listening", flush=True)
heard, _ = server.accept()
while heard.recv(1 << 20):
    pass
print("all", flush=True)
"""
SAY = f"""
import socket, sys
print("here", flush=True)
sys.stdin.readline()
socket.create_connection(("{link.ADDRESSES[0]}", 5000)).sendall(bytes(1_000_000))
"""

needs_namespaces = pytest.mark.skipif(link.refusal() is not None, reason=str(link.refusal()))


@pytest.fixture
def two_apart():
    processes = [
        subprocess.Popen(
            link.apart([sys.executable, "-S", "-c", code]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for code in (HEAR, SAY)
    ]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@needs_namespaces
def test_a_cable_between_two_namespaces_carries_what_it_is_told_to(two_apart):
    hearer, sayer = two_apart
    for process in two_apart:
        assert process.stdout.readline() == "here\n"
    cable = link.Link((hearer.pid, sayer.pid))
    cable.limit(1000)
    cable.limit(mbit=40)
    for process in two_apart:
        print(file=process.stdin, flush=True)
        if process is hearer:
            assert hearer.stdout.readline() == "listening\n"
    start = time.perf_counter()
    assert hearer.stdout.readline() == "all\n"
    # 8 Mbit, of which the first 0.64 pass at once; the rest of the machine can only slow it down.
    assert time.perf_counter() - start > 0.15
    ours = subprocess.run(["ip", "link", "show", link.DEVICE], capture_output=True)
    assert ours.returncode, "the cable is in the processes' namespaces alone"


@needs_namespaces
def test_a_queue_that_the_kernel_does_not_have_is_named(two_apart, monkeypatch):
    for process in two_apart:
        process.stdout.readline()
    cable = link.Link((two_apart[0].pid, two_apart[1].pid))
    monkeypatch.setattr(link, "_queue", lambda *_: ["nosuch"])
    with pytest.raises(ValueError, match=r"^tc qdisc add dev cable root nosuch: .*unknown"):
        cable.limit(1.0)


def test_the_link_is_refused_in_a_line_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(link.shutil, "which", lambda tool: None if tool == "tc" else tool)
    with pytest.raises(SystemExit, match=r"^network.py: tc missing .*; --loopback measures"):
        network.main([])
    monkeypatch.setattr(link.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(link.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match=r"^network.py: network namespaces need root;"):
        network.main([])


def test_a_delay_is_netem_s_and_a_rate_alone_tbf_s():
    assert link._queue(link.inf, 0) == []
    assert link._queue(2.5, 0)[:3] == ["tbf", "rate", "2500000bit"]
    assert link._queue(2.5, 3)[:5] == ["netem", "rate", "2500000bit", "delay", "3ms"]
    assert link._queue(link.inf, 3)[:3] == ["netem", "delay", "3ms"]


def two_blocks() -> linked.Blocks:
    """What one of the processes measures."""
    (blocks,) = linked.work(linked.SHAPES["tiny"], [{"blocks": 1, "steps": 1}])
    return blocks


def test_the_plans_are_compared_on_two_processes(capsys, monkeypatch):
    blocks = linked.means(together(2, two_blocks))
    measured = network.Pass(linked.SHAPES["tiny"], inf, blocks)
    monkeypatch.setattr(network, "measure", lambda _: [measured])
    network.main(["--shape", "tiny", "--loopback"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (only,) = result["passes"]
    assert only["mbit"] is None
    assert only["r"] > 0
    assert only["mslt"]["median"] > 0
    assert only["mslt_ahead"]["median"] > 0
    assert 1 < only["stacking_refined"] < only["mslt_refined"] < only["mslt_ahead_refined"]
    kinds = only["seconds"]
    assert len(kinds) == 9
    assert kinds["4 layers, 1 learn"]["prefix"] > 0
    assert kinds["4 layers, 4 learn"]["prefix"] == 0
    for kind in kinds.values():
        assert sum(kind.values()) < 2 * kind["step"], "no part is counted twice"


def test_a_process_that_dies_ends_the_benchmark_in_a_line(monkeypatch):
    monkeypatch.setattr(linked.sys, "executable", "false")
    with pytest.raises(SystemExit, match=r"^network.py: a process has ended before its time$"):
        network.main(["--shape", "tiny", "--loopback"])


def test_the_rate_that_brings_r_to_a_value_is_found():
    free = Parts(prefix=0, forward=0.1, backward=0.15, update=0.05, traffic=0.01)
    # r = 4 leaves 0.2 s for a million numbers of 32 bits.
    assert network.rate_for(4, free, 1_000_000) == pytest.approx(32 / 0.2)
    with pytest.raises(ValueError, match=r"--ratios 1\.5: r is 2\.00 without any traffic"):
        network.rate_for(1.5, free, 1_000_000)


def test_the_table_of_the_documentation_is_what_is_calculated():
    assert scale.table(scale.rows()) in (DOCS / "scale.md").read_text(encoding="utf-8")


def test_the_calculation_cuts_gradients_up_as_training_does():
    assert BUCKET == reducer.BUCKET
