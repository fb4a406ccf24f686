"""What breaks other trainers, thrown at this one: campaigns of cases, each one command.

python -m torture.corpora         bad corpora, through `mslt prepare`
python -m torture.configs         bad configurations, through `mslt pretrain`
python -m torture.hostile         stores, runs and models from somebody who means harm
python -m torture.damage          every file of a checkpoint damaged in every way
python -m torture.kill            a run killed at named points and at random times
python -m torture.numbers         NaN, infinite gradients and spikes in a run
python -m torture.worlds          1, 2 and 4 processes, and other numbers in the middle
python -m torture.restarts        processes killed under torchrun, which starts them again

A campaign is a table of cases and a judge. Each case of bad data runs in a process of its own,
without network and under watch (`box.py`); the same tables run inside the test suite, in one
process and in seconds. The processes of a run to which something happens are forked from the
campaign's own (`children.py`). Each campaign prints what failed, then one line of JSON.
"""
