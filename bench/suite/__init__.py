"""The benchmark suite behind `make bench`: data, programs, measurements and the table.

`run.py` beside this package is the command. `scenarios.py` says what is measured and what is to be reached; `data.py`
makes the input; `systems.py` starts a program of Checkdam, Flink or Bytewax on it and `stamps.py` is how that program
reports its progress; `probes.py` measures what is not throughput; `report.py` prints and stores the table.
"""
