//! Log ranges for clients.
