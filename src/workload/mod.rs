//! Revisions, ReplicaSets and pods.
