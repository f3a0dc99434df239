//! The solver as a whole, on scripted ops and virtual time.

mod oracle;
mod scenarios;
