//! Which names a topic may have.

use crate::event::Refusal;

/// Longest name, bytes. Kafka's limit: there a name becomes part of a file name.
const NAME_BYTES_MAX: usize = 249;

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

/// Whether `name` could collide with another one at all.
pub(crate) fn has_collision_characters(name: &str) -> bool {
    name.contains(['.', '_'])
}

/// Whether two names differ in nothing but '.' against '_'. Kafka refuses such a pair, since its
/// metrics cannot tell them apart; a client that relies on the refusal finds it here too.
pub(crate) fn collide(a: &str, b: &str) -> bool {
    let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
    a.len() == b.len() && a.bytes().map(unify).eq(b.bytes().map(unify))
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
        assert!(collide("a.b", "a_b"));
        assert!(!collide("a.b", "a-b"));
        assert!(!collide("a.b", "a.bc"));
        assert!(has_collision_characters("a.b") && !has_collision_characters("a-b"));
    }
}
