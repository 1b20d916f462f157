//! Virtual CPUs: one small trait, one neutral exit enum, one implementation per vendor.

pub mod bus;
