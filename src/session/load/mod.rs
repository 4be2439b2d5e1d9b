//! Many sessions at once, and what became of them.
