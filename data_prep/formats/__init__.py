"""What readers share: file formats, band files on several grids, class lists, tiles. No reader
imports another.
"""
