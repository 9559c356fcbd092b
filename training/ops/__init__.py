"""Operations on point clouds and batches that the encoders are made of."""
