"""Features for GeoTIFFs: pooled ones of images, and dense maps of scenes of any size.

The command is in `__main__`, which chooses the device before jax is imported. `encoder` has the
weights, `images` the files, `tiles` and `blending` how a scene is cut and put together, `scratch`
what is finished, `table`, `geotiff` and `zarr_map` the formats. `pooled` and `dense` are the two
modes.
"""
