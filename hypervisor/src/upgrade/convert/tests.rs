//! The conversions together: a machine written and read again.
