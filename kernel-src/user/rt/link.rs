//! The build script of every program: links it where `program.ld` says.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    // The script is part of this file's own compilation, so a change of either builds and runs this again.
    println!("cargo::rerun-if-changed=Cargo.toml");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the output folder")).join("program.ld");
    fs::write(&script, include_str!("program.ld")).expect("cargo's output folder takes a file");
    // Objects are position independent, so that core and alloc serve the kernel too; the image is not.
    for argument in ["--no-pie", "-zmax-page-size=4096", "-znognustack", "--build-id=sha1"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
