//! Turns a pak lockfile into a complete R package library.

pub mod event;
pub mod exit;
pub mod lockfile;
pub mod report;
pub mod ui;
