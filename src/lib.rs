//! Turns a pak lockfile into a complete R package library.

pub mod event;
pub mod exit;
pub mod host;
pub mod lockfile;
pub mod plan;
pub mod report;
pub mod ui;
