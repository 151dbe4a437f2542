"""TODO-DOC wire."""
