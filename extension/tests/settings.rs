//! What else speaks of the settings says what the table says: the documentation, and the Terraform module.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails like the test itself"
)]

use std::collections::BTreeSet;
use std::path::Path;

use langfuse_extension::settings::table::{TABLE, Terraform, markdown};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_documentation_has_the_table() {
    let page = read("docs/settings.md");
    let start = page.find("| Variable | Default | What |").unwrap();
    let end = start + page[start..].find("\n\n").unwrap() + 1;
    let table = markdown();
    assert_eq!(
        page[start..end],
        table,
        "the table of docs/settings.md should be:\n{table}"
    );
}

/// The names in the module's map of settings: `NAME = var.variable`, or an expression with such variables.
fn extension_settings(main: &str) -> Vec<(String, String)> {
    let start = main.find("extension_settings = {").unwrap();
    let end = start + main[start..].find("\n  }").unwrap();
    let lines = main[start..end].lines().skip(1);
    let pairs = lines.map(|line| line.split_once('=').unwrap());
    pairs
        .map(|(name, value)| {
            let name = format!("LANGFUSE_EXTENSION_{}", name.trim());
            (name, value.trim().to_owned())
        })
        .collect()
}

#[test]
fn the_terraform_module_can_set_each_setting_of_the_extension() {
    let (main, variables) = (read("terraform/main.tf"), read("terraform/variables.tf"));
    let handed_on = extension_settings(&main);
    for setting in TABLE {
        let variable = match setting.terraform {
            Terraform::Variable(variable) => variable,
            Terraform::Settings => {
                assert!(setting.name.starts_with("LANGFUSE_EXTENSION_"));
                continue;
            }
            Terraform::Function => {
                assert!(!setting.name.starts_with("LANGFUSE_"), "{}", setting.name);
                continue;
            }
        };
        assert!(
            variables.contains(&format!("variable \"{variable}\" {{")),
            "terraform/variables.tf lacks {variable} for {}",
            setting.name
        );
        if !setting.secret && setting.name.starts_with("LANGFUSE_EXTENSION_") {
            let value = handed_on.iter().find(|(name, _)| setting.name == name);
            let value = value.unwrap_or_else(|| panic!("main.tf does not set {}", setting.name));
            assert!(value.1.contains(&format!("var.{variable}")), "{value:?}");
        }
    }
    let known: BTreeSet<_> = TABLE.iter().map(|setting| setting.name).collect();
    for (name, _) in &handed_on {
        assert!(known.contains(name.as_str()), "main.tf sets {name}");
        let short = name.trim_start_matches("LANGFUSE_EXTENSION_");
        assert!(
            variables.contains(&format!("\"{short}\"")),
            "the module's map `settings` takes {short}, which has a variable of its own"
        );
    }
}
