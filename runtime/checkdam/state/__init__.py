"""Keyed state and timers: one contract, two backends.

`base` is what operators see: tables of cells, map tables, timers, snapshots; `backends` makes what a StreamJob names.
`hashmap` keeps Python objects in dictionaries (`hashmap_values`, `hashmap_maps`, `timer_heap`). `rocksdb` keeps encoded
rows on disk (`rocksdb_store`, `rocksdb_rows`) behind caches of decoded ones (`rocksdb_values`, `rocksdb_maps`,
`rocksdb_timers`, which share `rocksdb_cache`). Snapshots of both are files of blocks by key group (`blocks`, `columns`,
`sections`, described by `record`), written by a forked child (`forked`).
"""
