"""A mesh file becomes arrays: images, depth, masks, points, labels. Knows nothing of Ray, torch or datasets."""
