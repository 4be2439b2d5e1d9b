//! Decide: phases, waves and budget, capacity, verdict. Pure: no client, no clock, no I/O.

pub mod evidence;
