"""Stems: from the bands of a sensor to tokens or to an image of features. A config names a file of
this folder.
"""
