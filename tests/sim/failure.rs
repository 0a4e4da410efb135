//! What a broken rule looks like, and how a case is run so that its seed is always printed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A rule that did not hold.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Checked<T> = Result<T, Failure>;

/// Returns a [`Failure`] from the function around it unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failure(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// Runs `case`, taking an assertion of the code under test for a failure too.
pub(crate) fn catching<T>(case: impl FnOnce() -> Checked<T>) -> Checked<T> {
    match catch_unwind(AssertUnwindSafe(case)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure(format!("panicked: {}", text.unwrap_or_default())))
        }
    }
}
