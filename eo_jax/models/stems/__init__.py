"""Stems: from the bands of a sensor to tokens or to an image of features. The files in this folder
are the list of stems that a config may name.
"""
