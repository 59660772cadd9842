#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod disk;
mod error;
mod keyring;
mod sealed;

pub use disk::{ObjectKey, ObjectReader, ObjectWriter, Objects, Stored};
pub use error::ObjectError;
pub use keyring::Keyring;
