//! VT-d.
#![no_std]
