//! The image: all of it is in the library, where the pure parts are tested on the host too.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use kernel as _;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the kernel runs on x86_64-unknown-none, aarch64-unknown-none-softfloat or riscv64gc-unknown-none-elf");
    std::process::exit(2);
}
