"""Imported by every Python process that a box starts: writes down what none of them may do."""

import os

if "TORTURE_LOG" in os.environ:
    import sys

    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    from torture import watch

    sys.path.pop(0)
    watch.begin(os.environ["TORTURE_FOLDER"], os.environ["TORTURE_LOG"])
