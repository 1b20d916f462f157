//! The management API: routes, JSON types, errors.
