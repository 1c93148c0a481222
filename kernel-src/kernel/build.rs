//! Chooses the linker script by architecture, and says so when there is none.

use std::env;
use std::path::PathBuf;

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo names the target's architecture");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's folder"));
    let script = root.join("src/arch").join(&arch).join("kernel.ld");
    assert!(
        script.is_file(),
        "linker script wanted for {arch}, but {} is missing: restore it, or build for an architecture that has one",
        script.display()
    );
    println!("cargo::rerun-if-changed={}", script.display());
    for argument in [
        "-pie",
        "--no-dynamic-linker",
        "-zmax-page-size=4096",
        "-zseparate-code",
        "--build-id=sha1",
        "--no-relax",
        "-znotext",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
