"""Trunks: from what a stem gives to features. The files in this folder are the list of trunks that
a config may name.
"""
