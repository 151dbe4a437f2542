"""Checkdam: stateful stream jobs in Python, with checkpoints that survive kill -9.

A job is a function that fills a pipeline, and a StreamJob manifest that says how to run it::

    import checkdam as cd


    def build(pipeline: cd.Pipeline, args: dict) -> None:
        (
            pipeline.source("lines", cd.text_files(args["path"]))
            .flat_map(str.split, returns=str)
            .key_by(lambda word: word)
            .count(name="words")
            .sink("out", cd.json_lines_sink(args["out"]))
        )

`checkdam run job.yaml` runs it on this machine. Everything that users need is imported from here; tests of pipelines use
`checkdam.testing`, and state is read and written without a job by `checkdam.offline`.
"""

from checkdam.api.keyed import KeyedStream, WindowedStream
from checkdam.api.pipeline import Pipeline
from checkdam.api.stream import Stream
from checkdam.connectors.base import (
    Sink,
    SinkContext,
    SinkWriter,
    Source,
    SourceBatch,
    Split,
    SplitReader,
    TwoPhaseWriter,
)
from checkdam.connectors.callbacks import CollectSink, FunctionSink, PrintSink
from checkdam.connectors.collection import CollectionSource
from checkdam.connectors.file_sink import FileSink, csv_sink, json_lines_sink, parquet_sink
from checkdam.connectors.file_source import FileSource, csv_files, json_lines, parquet_files, text_files
from checkdam.connectors.generator import GeneratorSource
from checkdam.core.errors import CheckdamError
from checkdam.core.formerly import formerly
from checkdam.operators.aggregators import (
    Aggregator,
    collect,
    combined,
    count,
    max_of,
    mean_of,
    min_of,
    reducing,
    sum_of,
)
from checkdam.operators.assigners import Session, Sliding, Tumbling, WindowResult
from checkdam.operators.broadcast import BroadcastContext, BroadcastFunction, broadcast_lookup
from checkdam.operators.functions import (
    AggregatingState,
    FunctionContext,
    ListState,
    MapState,
    ProcessContext,
    ProcessFunction,
    ReducingState,
    ValueState,
)
from checkdam.operators.watermarks import Watermarks, bounded_out_of_orderness, from_source, monotonous

__version__ = "0.1.0"

__all__ = [
    "AggregatingState",
    "Aggregator",
    "BroadcastContext",
    "BroadcastFunction",
    "CheckdamError",
    "CollectSink",
    "CollectionSource",
    "FileSink",
    "FileSource",
    "FunctionContext",
    "FunctionSink",
    "GeneratorSource",
    "KeyedStream",
    "ListState",
    "MapState",
    "Pipeline",
    "PrintSink",
    "ProcessContext",
    "ProcessFunction",
    "ReducingState",
    "Session",
    "Sink",
    "SinkContext",
    "SinkWriter",
    "Sliding",
    "Source",
    "SourceBatch",
    "Split",
    "SplitReader",
    "Stream",
    "Tumbling",
    "TwoPhaseWriter",
    "ValueState",
    "Watermarks",
    "WindowResult",
    "WindowedStream",
    "bounded_out_of_orderness",
    "broadcast_lookup",
    "collect",
    "combined",
    "count",
    "csv_files",
    "csv_sink",
    "formerly",
    "from_source",
    "json_lines",
    "json_lines_sink",
    "max_of",
    "mean_of",
    "min_of",
    "monotonous",
    "parquet_files",
    "parquet_sink",
    "reducing",
    "sum_of",
    "text_files",
]
