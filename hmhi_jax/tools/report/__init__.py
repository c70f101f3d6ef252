"""Scores as a page to look at: tables, curves, best and worst frames."""
