//! What a broker means: partitions, the catalog, shards and the mesh between them.
