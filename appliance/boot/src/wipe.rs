//! Takes secrets out of a `rig.toml`: the same text without them, for the stick.
//!
//! Invariants: what is left is still right TOML, holds no value at those places, and differs from what the owner wrote
//! in nothing else, line ends included. Whoever opens the file sees where each secret was and that the rig has it.

use std::ops::Range;

use toml_edit::{Document, TableLike};

/// What the rig takes from the stick: table, key, and what is left in its place.
const TAKEN: [(&str, &str, &str); 3] = [
    ("wifi", "password", "# password: the rig has taken it and keeps it. To change it, write a new line here."),
    ("fleet", "join_token", "# join_token: the rig has taken it and keeps it. To change it, write a new line here."),
    ("state", "erase", "# erase: the rig has done so."),
];

/// A text without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiped {
    /// The whole file.
    pub text: String,
    /// Which keys were taken, such as `wifi.password`.
    pub taken: Vec<String>,
}

/// Takes the secrets out of `text`. With `erased` the word that erased a state goes too.
/// Errors: `text` is no TOML, or a secret stands where it cannot be taken out.
pub fn wiped(text: &str, erased: bool) -> Result<Wiped, String> {
    taken_out(text, &|table| table != "state" || erased)
}

/// Takes only the word that erased a state out of `text`: for settings that do not hold, whose secrets stay where they
/// are. Errors: as [`wiped`].
pub fn without_word(text: &str) -> Result<Wiped, String> {
    taken_out(text, &|table| table == "state")
}

/// Takes out what stands in the tables that `goes` names.
fn taken_out(text: &str, goes: &dyn Fn(&str) -> bool) -> Result<Wiped, String> {
    let document = Document::parse(text).map_err(|error| error.message().to_owned())?;
    let mut cuts: Vec<(Range<usize>, &str)> = Vec::new();
    let mut taken = Vec::new();
    for (table, key, left) in TAKEN {
        if !goes(table) {
            continue;
        }
        let Some(found) = document.as_table().get(table) else { continue };
        // What is in a list has no keys to find it by.
        let found = found.as_table_like().ok_or_else(|| format!("[{table}] is not a table"))?;
        if found.get(key).and_then(|item| item.as_str()).is_none_or(str::is_empty) {
            continue;
        }
        let place =
            place(text, found, key).ok_or_else(|| format!("[{table}] {key} stands where it cannot be taken"))?;
        cuts.push(match place {
            Place::Lines(lines) => (lines, left),
            Place::Value(value) => (value, "\"\""),
        });
        taken.push(format!("{table}.{key}"));
    }
    cuts.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = text.to_owned();
    for (range, left) in cuts {
        text.replace_range(range, left);
    }
    is_clean(&text, goes)?;
    Ok(Wiped { text, taken })
}

/// Where a secret stands.
enum Place {
    /// Alone on its lines, without their end.
    Lines(Range<usize>),
    /// Among others: only the value.
    Value(Range<usize>),
}

fn place(text: &str, table: &dyn TableLike, key: &str) -> Option<Place> {
    let (key, item) = table.get_key_value(key)?;
    let (name, value) = (key.span()?, item.span()?);
    let from = text.get(..name.start)?.rfind('\n').map_or(0, |at| at + 1);
    let rest = text.get(value.end..)?;
    let length = rest.find('\n').unwrap_or(rest.len());
    let line_rest = rest[..length].trim_end_matches('\r');
    // Only the names of the tables around it stand before a key, as in `wifi.password`.
    let is_name = |sign: char| sign.is_ascii_alphanumeric() || " \t._-\"'".contains(sign);
    let is_alone = text.get(from..name.start)?.chars().all(is_name)
        && (line_rest.trim().is_empty() || line_rest.trim_start().starts_with('#'));
    Some(match is_alone {
        true => Place::Lines(from..value.end + line_rest.len()),
        false => Place::Value(value),
    })
}

/// Looks again: a secret that is still there must not be called gone.
fn is_clean(text: &str, goes: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let document = Document::parse(text).map_err(|error| error.message().to_owned())?;
    let is_left = |(table, key, _): &(&str, &str, &str)| {
        let found = document.as_table().get(table).and_then(|item| item.as_table_like());
        let item = found.and_then(|found| found.get(key));
        goes(table) && item.is_some_and(|item| item.as_str() != Some(""))
    };
    match TAKEN.iter().find(|place| is_left(place)) {
        Some((table, key, _)) => Err(format!("[{table}] {key} could not be taken out")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIFI: &str = TAKEN[0].2;
    const TOKEN: &str = TAKEN[1].2;

    #[test]
    fn a_secret_goes_and_everything_else_stays() {
        let check = |text: &str, expected: &str, taken: &[&str]| {
            let wiped = wiped(text, false).expect(text);
            assert_eq!((wiped.text.as_str(), wiped.taken), (expected, taken.iter().map(|t| (*t).to_owned()).collect()));
        };
        check("", "", &[]);
        check("[wifi]\nnetwork = \"a\"\n", "[wifi]\nnetwork = \"a\"\n", &[]);
        check("[wifi]\npassword = \"\"\n", "[wifi]\npassword = \"\"\n", &[]);
        let both = "[wifi]\npassword = \"hunter22\" # mum's\nx = 1\n[fleet]\n  join_token='t' ";
        check(both, &format!("[wifi]\n{WIFI}\nx = 1\n[fleet]\n{TOKEN}"), &["wifi.password", "fleet.join_token"]);
        check(
            "[wifi]\r\npassword = \"hunter22\"\r\nx = 1\r\n",
            &format!("[wifi]\r\n{WIFI}\r\nx = 1\r\n"),
            &["wifi.password"],
        );
        check("wifi.password = \"hunter22\"\n", &format!("{WIFI}\n"), &["wifi.password"]);
        check(
            "[wifi]\n\"password\" = \"\"\"\nhun\nter22\"\"\"\ny = 1",
            &format!("[wifi]\n{WIFI}\ny = 1"),
            &["wifi.password"],
        );
        let inline = "wifi = { network = \"a\", password = \"hunter22\", open = false }\n";
        let left = "wifi = { network = \"a\", password = \"\", open = false }\n";
        check(inline, left, &["wifi.password"]);
        let erase = "[state]\nerase = \"erase-0123abcd\"\n";
        check(erase, erase, &[]);
        let gone = super::wiped(erase, true).expect("right").text;
        assert_eq!(gone, format!("[state]\n{}\n", TAKEN[2].2));
        let word = without_word(&format!("{both}\n{erase}")).expect("right");
        assert_eq!(word.text, format!("{both}\n[state]\n{}\n", TAKEN[2].2));
        assert_eq!(word.taken, ["state.erase"]);
        assert_eq!(without_word(both).expect("right").text, both);
    }

    #[test]
    fn a_secret_in_a_list_is_not_called_gone() {
        let list = "wifi = [\"my network\", \"hunter22\", \"DE\"]\n";
        for text in [list, "[[wifi]]\npassword = \"hunter22\"\n", "fleet = [\"token-of-a-rig\"]\n"] {
            assert!(wiped(text, false).is_err(), "{text}");
        }
        assert_eq!(without_word(list).expect("right").text, list);
    }

    #[test]
    fn what_is_no_toml_is_left_alone() {
        for text in ["[wifi", "password =", "[wifi]\npassword = 1\n", "[wifi]\npassword = \"a\"\npassword = \"b\"\n"] {
            assert!(wiped(text, false).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_is_ever_left(secret in "[ -~]{8,63}", before in "[a-z]{0,9}", crlf in any::<bool>(), form in 0..4) {
            let quoted = toml_edit::Value::from(secret.as_str()).to_string();
            let text = match form {
                0 => format!("# {before}\n[wifi]\nnetwork = \"{before}\"\npassword = {quoted} # {before}\n"),
                1 => format!("wifi = {{ password = {quoted}, network = \"{before}\" }}\n"),
                2 => format!("wifi.password = {quoted}\nwifi.network = \"{before}\""),
                _ => format!("[ wifi ]\n 'password'={quoted}\n[fleet]\njoin_token = {quoted}\n"),
            };
            let text = if crlf { text.replace('\n', "\r\n") } else { text };
            let wiped = wiped(&text, false).expect("right");
            prop_assert!(!wiped.taken.is_empty() && !wiped.text.contains(&quoted), "{}", wiped.text);
            prop_assert_eq!(super::wiped(&wiped.text, false).expect("right").taken.len(), 0);
        }

        #[test]
        fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..400), toml in "(\\[(wifi|fleet)\\]\r?\n|password|join_token| |=|\"|'|\n|[a-z]|\\{|\\}|,|#|\\.){0,40}") {
            for text in [String::from_utf8_lossy(&bytes).into_owned(), toml] {
                if let Ok(done) = wiped(&text, true) {
                    prop_assert!(wiped(&done.text, true).expect("still right").taken.is_empty());
                }
            }
        }
    }
}
