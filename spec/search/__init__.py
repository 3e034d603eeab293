"""Small instances, searched exhaustively."""
