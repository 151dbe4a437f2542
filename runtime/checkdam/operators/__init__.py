"""TODO-DOC operators."""
