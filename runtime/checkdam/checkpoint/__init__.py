"""TODO-DOC checkpoint."""
