//! `baton.toml`: what the operator wants.
