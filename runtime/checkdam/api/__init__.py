"""What users import: pipelines and streams, which build a graph, and the loader that calls the user's entrypoint.

`checkdam/__init__.py` re-exports the public names; nothing here runs records.
"""
