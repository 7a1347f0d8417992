//! A part of `make attack`, on the release binary.

use std::path::Path;
use std::process::Command;

#[test]
fn the_doors_stand_what_attacks_them() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attack/attack.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(script)
        .arg("part")
        .env("EXTENSION_BINARY", e2e::binary())
        .output()
        .unwrap();
    let (table, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{table}\n{errors}");
}
