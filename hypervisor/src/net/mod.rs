//! The management NIC and its TCP/IP stack.
