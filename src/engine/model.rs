//! A small model of a cluster.
