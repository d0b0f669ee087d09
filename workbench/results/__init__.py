"""What records say: tables, tests, text, figures, pages. Needs no torch, but for appendix_d."""
