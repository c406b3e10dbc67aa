"""Stores of Samples: one record codec, two formats, local or remote."""
