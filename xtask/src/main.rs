//! Project tasks: `cargo xtask demo | test | bench | image`.

fn main() {}
