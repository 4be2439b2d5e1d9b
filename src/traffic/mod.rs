//! Who gets new connections: slots, routes, pins.
