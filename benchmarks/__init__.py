"""Every performance claim as a command: ratios to a named peer and to the physical limit, from one
run; results/README.md has what was measured, when and how.
"""
