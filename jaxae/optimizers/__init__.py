"""Optimisers that ``optax`` does not have, as ``optax`` transformations or beside them."""
