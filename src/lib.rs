//! Turns a pak lockfile into a complete R package library.

pub mod lockfile;
