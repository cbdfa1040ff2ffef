//! Which traces stay, and with what weight. Pure: no clock, no I/O.
