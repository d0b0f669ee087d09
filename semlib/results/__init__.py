"""What records say: tables, tests, text, figures, pages. Needs no torch."""
