//! Hands the linker script to the linker when the guests are built for the bare target.

fn main() {
    let script = "link.ld";
    println!("cargo:rerun-if-changed={script}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        // The image's own code is position independent; guests lie where they are linked.
        for argument in [
            format!("-T{dir}/{script}"),
            "--no-pie".into(),
            "-znognustack".into(),
            "--build-id=none".into(),
            "--strip-all".into(),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
