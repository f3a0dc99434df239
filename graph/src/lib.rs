//! A build-graph solver: vertices, keys, caches and limits.
