//! Tells the crate the commit that it is built from: every report names it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=MILLRACE_COMMIT");
    // The reflog grows with every commit and checkout; HEAD alone names a branch that moves.
    for file in ["logs/HEAD", "HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]);
        // Cargo takes a file that is not there for one that always changes.
        if let Some(path) = path.filter(|path| std::path::Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let named = std::env::var("MILLRACE_COMMIT").ok();
    let commit = named.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=MILLRACE_COMMIT={commit}");
}

/// What git says, if there is a git and a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
