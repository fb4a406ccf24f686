"""What breaks other trainers, thrown at this one: campaigns of cases, each one command.

python -m torture                 all of them (what `make torture` runs)
python -m torture.corpora         bad corpora, through `mslt prepare`
python -m torture.configs         bad configurations, through `mslt pretrain`
python -m torture.files           hostile files: tokenizers, stores, runs, checkpoints, weights
python -m torture.damage          every file of a checkpoint damaged in every way, and bit flips

A campaign is a table of cases and a judge. Each case runs in a process of its own without network,
under watch (`box.py`); the same tables run inside the test suite, in one process and in seconds.
Each prints what failed, then one line of JSON.
"""
