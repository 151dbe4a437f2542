"""Checkpoint storage: the interface (`base`) and what implements it, `file` and `memory`.

`locate` finds the one that a uri names, `naming` says what a name may look like, and `probing` refuses storage whose
conditional create lets two callers win.
"""
