//! - `sample`: a machine with one guest, an NVMe function and a management card, in run-time types
//! - `stream`: that machine written by one image and read by the next
//! - `round_trips`: whatever the run-time state is, it comes back
//! - `scalable`: what only later formats have a place for comes back as well
//! - `refusals`: what is impossible is refused by name; nothing panics

mod refusals;
mod round_trips;
mod sample;
mod scalable;
mod stream;
