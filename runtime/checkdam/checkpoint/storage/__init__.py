"""Checkpoint storage: the interface (`base`) and what implements it.

`file`, `memory`, `s3` and `hdfs` keep all its promises; `generic` does what a file system of fsspec lets it do.

`locate` finds the one that a uri names, `naming` says what a name may look like, and `probing` refuses storage whose
conditional create lets two callers win.
"""
