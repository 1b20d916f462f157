//! Hands the linker script to the linker when the bare image is built.

fn main() {
    let script = "link.ld";
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        for argument in [
            format!("-T{dir}/{script}"),
            "-pie".into(),
            "--no-dynamic-linker".into(),
            // A bit for a relocation instead of 24 bytes: 2 % of the image.
            "--pack-dyn-relocs=relr".into(),
            // Functions that came out the same are one: nothing here compares addresses of functions.
            "--icf=all".into(),
            "-znotext".into(),
            "-znognustack".into(),
            "--build-id=none".into(),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
