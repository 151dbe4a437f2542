"""Where records come from and where they go: files, folders, a generator, and in-memory collections.

`base` holds the contracts that every connector keeps, a user's own included. The file source is `file_source` over
`files` (finding and opening), `lines` (blocks of whole lines), `formats` and `csv_format` (bytes to records) and
`line_reader`, `parquet_reader` (one split). The file sink is `file_sink` over `encoders` (records to bytes) and `parts`
(files that appear whole or not at all). `generator`, `collection` and `callbacks` need no files.
"""
