//! The solver as a whole, on scripted ops and virtual time.

mod lab;
mod models;
mod oracle;
mod oracle_jobs;
mod scenarios;
mod t_cache;
mod t_export;
mod t_jobs;
mod t_suites;
mod x_ends;
mod x_jobs;
