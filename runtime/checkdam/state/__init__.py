"""Keyed state and timers: one contract, two backends.

`base` is what operators see: tables of cells, map tables, timers, snapshots; `backends` makes what a StreamJob names.
`hashmap` keeps Python objects in dictionaries (`hashmap_values`, `hashmap_maps`, `timer_heap`). `rocksdb` keeps encoded
rows on disk (`rocksdb_store`, `rocksdb_rows`) behind caches of decoded ones (`rocksdb_values`, `rocksdb_maps`,
`rocksdb_timers`, which share `rocksdb_cache`).

The canonical format of snapshots, which every backend restores, is a file of blocks by key group (`blocks`, `columns`,
described by `record`). The hashmap backend writes it by a forked child (`sections`, `forked`). RocksDB has a quicker one of
its own, hard links and a file of changes (`rocksdb_snapshot`), of which `canonical` makes the other. What is restored waits
in `restored` for the operators that it belongs to; `rocksdb_restore` brings it into a database, with `rocksdb_manifest` and
`rocksdb_blocks`.
"""
