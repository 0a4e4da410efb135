//! Which names a topic may have.

use crate::event::Refusal;

/// Longest name, bytes. Kafka's limit: there a name becomes part of a file name.
pub const NAME_BYTES_MAX: usize = 249;

/// Checks a name by Kafka's rules.
///
/// # Errors
/// [`Refusal::InvalidTopicName`] with the rule that is broken.
pub fn check_topic_name(name: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let why = if name.is_empty() {
        "it is empty".to_owned()
    } else if name == "." || name == ".." {
        format!("{name:?} is reserved")
    } else if name.len() > NAME_BYTES_MAX {
        format!(
            "{} characters, at most {NAME_BYTES_MAX} are allowed",
            name.len()
        )
    } else if !name.bytes().all(allowed) {
        format!("{name:?} has a character other than letters, digits, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(Refusal::InvalidTopicName(why))
}

/// What `name` shares with every name that it collides with: those that differ in nothing but '.'
/// against '_'. Kafka refuses such a pair, since its metrics cannot tell them apart; a client that
/// relies on the refusal finds it here too. `None` when it cannot collide at all.
pub(crate) fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_rules_hold() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(250);
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", "%2e", &long] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(collision_key("a.b"), collision_key("a_b"));
        assert_ne!(collision_key("a.b"), collision_key("a.bc"));
        assert_eq!(collision_key("a-b"), None);
    }
}
