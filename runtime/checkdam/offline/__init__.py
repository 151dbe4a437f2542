"""State without a job: reading checkpoints and savepoints, correcting them, and making new ones.

`savepoint` opens and reads; `rewriting` copies with corrections; `bootstrap` writes what no job has taken. Below them, `keyed`
turns one subtask's files into blocks, `rows` and `serdes` make rows of blocks, `own_state` reads what operators keep beside keyed
state, `contents` knows the names, `keyed_writer` and `target` write, and `export` turns rows into JSON lines and Parquet.

Users import from here::

    from checkdam.offline import DELETE, new_savepoint, open_savepoint
"""

from checkdam.offline.bootstrap import NewSavepoint, new_savepoint
from checkdam.offline.contents import OperatorContents, StateInfo
from checkdam.offline.own_state import OwnRow, SplitRow
from checkdam.offline.rewriting import DELETE
from checkdam.offline.rows import StateRow, TimerRow
from checkdam.offline.savepoint import Savepoint, open_savepoint

__all__ = [
    "DELETE",
    "NewSavepoint",
    "OperatorContents",
    "OwnRow",
    "Savepoint",
    "SplitRow",
    "StateInfo",
    "StateRow",
    "TimerRow",
    "new_savepoint",
    "open_savepoint",
]
