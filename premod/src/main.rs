//! premod
fn main() {}
