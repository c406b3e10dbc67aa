"""File formats, and what readers share about file lists, grids and tiles. Knows no archive."""
