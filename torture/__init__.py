"""What breaks other trainers, thrown at this one: campaigns of cases, each one command.

python -m torture.corpora         bad corpora, through `mslt prepare`

A campaign is a table of cases and a judge. Each case runs in a process of its own without network,
under watch (`box.py`); the same tables run inside the test suite, in one process and in seconds.
Each prints what failed, then one line of JSON.
"""
