//! The migrations are compiled in, and cargo does not see that by itself.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
