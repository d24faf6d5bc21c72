"""Words: frozen records and errors that every layer shares. No I/O, no imports from above."""
