//! Blocks of network addresses, as agent and runner write them: `10.1.2.3`, `10.1.0.0/16`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    address: IpAddr,
    length: u8,
}

/// What is no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor a block of addresses such as 10.1.0.0/16")]
pub struct NoBlock(String);

impl Block {
    /// The addresses whose first `length` bits are those of `address`; `None` when an address has fewer.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= bits(address)).then_some(Self { address, length })
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses share.
    pub fn length(self) -> u8 {
        self.length
    }
}

/// How many bits an address has.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<IpAddr> for Block {
    fn from(address: IpAddr) -> Self {
        let length = bits(address);
        Self { address, length }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.length == bits(self.address) {
            write!(formatter, "{}", self.address)
        } else {
            write!(formatter, "{}/{}", self.address, self.length)
        }
    }
}

impl FromStr for Block {
    type Err = NoBlock;

    fn from_str(text: &str) -> Result<Self, NoBlock> {
        let none = || NoBlock(text.to_owned());
        let (address, length) = match text.split_once('/') {
            None => (text, None),
            Some((address, length)) => (address, Some(length)),
        };
        let address: IpAddr = address.parse().map_err(|_| none())?;
        match length {
            None => Ok(address.into()),
            Some(length) => {
                let length = length.parse().map_err(|_| none())?;
                Self::new(address, length).ok_or_else(none)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

    use super::*;

    #[test]
    fn blocks_are_read_as_they_are_written() {
        for text in ["10.1.2.3", "10.1.0.0/16", "fd00:ec2::/32", "2001:db8::7"] {
            assert_eq!(text.parse::<Block>().unwrap().to_string(), text);
        }
        assert_eq!("10.1.2.3/32".parse::<Block>().unwrap().to_string(), "10.1.2.3");
        for text in ["", "10.1.2", "10.1.2.3/33", "10.1.2.3/", "::/129", "a/8"] {
            assert_eq!(text.parse::<Block>(), Err(NoBlock(text.to_owned())));
        }
    }
}
