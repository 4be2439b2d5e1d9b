//! The drain protocol (wire types) and the operator's client of it.
