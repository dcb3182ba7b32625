"""Classification losses of the report, one per file."""
