//! The contract between two images.
#![no_std]
#![forbid(unsafe_code)]
