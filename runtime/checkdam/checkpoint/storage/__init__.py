"""TODO-DOC checkpoint/storage."""
