//! The command from the outside: what users, scripts and R see of it.

mod real;
