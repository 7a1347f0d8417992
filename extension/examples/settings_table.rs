//! Prints docs/settings.md's table, for when the settings have changed.

fn main() {
    print!("{}", langfuse_extension::settings::table::markdown());
}
