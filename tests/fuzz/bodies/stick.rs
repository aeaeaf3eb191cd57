//! Any bytes as the `rig.toml` of a stick: what is made of it for the rig's own files, and what is left of it when its
//! secrets are taken.
//!
//! A text without its secrets says what it said before in all else, and no longer holds them. No word of an owner becomes
//! another line of a file that is made of it.

use boot::judge::{Judged, judge, sections};
use boot::sections::Sections;
use boot::wipe::{wiped, without_word};
use boot::{effective, network, policy, text};
use toml::{Table, Value};

/// What the rig takes, and whether that is a secret.
const TAKEN: [(&str, &str, bool); 3] =
    [("wifi", "password", true), ("fleet", "join_token", true), ("state", "erase", false)];

/// What stands where a secret was.
const LEFT: &str = "The rig has taken it and keeps it. To change it, write a new line here. # password: join_token:";

/// The lines of a policy, blank ones and tables' too.
const POLICY_LINES: usize = 16;

/// Shorter words may stand in any text by chance.
const SECRET_BYTES_MIN: usize = 8;

/// Reads `data`.
pub(crate) fn run(data: &[u8]) {
    let text = match text::of(data) {
        Ok(text) => text,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(text.len() <= text::FILE_BYTES_MAX && !text.contains('\0'));
    let shown = text::shown(text, 80);
    assert!(shown.chars().count() <= 83 && !shown.chars().any(char::is_control), "{shown:?}");
    judged(text);
    for erased in [false, true] {
        if let Ok(left) = wiped(text, erased) {
            taken(text, &left.text, &left.taken, |key| key != "erase" || erased);
            made(&left.text);
        }
    }
    if let Ok(left) = without_word(text) {
        taken(text, &left.text, &left.taken, |key| key == "erase");
    }
    if let Ok(sections) = sections(text) {
        files(text, &sections);
    }
}

/// What is said of settings does not repeat their secrets: everybody on the network can read it.
fn judged(text: &str) {
    let Judged::Wrong(why) = judge(text, || Ok(())) else { return };
    assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
    let Ok(table) = text.parse::<Table>() else { return };
    for secret in secrets(&table).filter(|secret| is_once(text, secret)) {
        assert!(!why.contains(secret), "{why:?} holds a secret");
    }
}

/// `left` is `text` without the keys that `goes` names, which are `said` to be taken if they were there.
fn taken(text: &str, left: &str, said: &[String], goes: impl Fn(&str) -> bool) {
    let (before, after): (Table, Table) = (text.parse().expect("it was read"), left.parse().expect("it is left right"));
    for (table, key, _) in TAKEN.into_iter().filter(|(_, key, _)| goes(key)) {
        let at = |whole: &Table| whole.get(table)?.get(key).cloned();
        let is_left = at(&after).is_some_and(|value| value.as_str() != Some(""));
        assert!(!is_left, "{table}.{key} is still there");
        let was_there = at(&before).is_some_and(|value| value.as_str() != Some(""));
        assert_eq!(said.contains(&format!("{table}.{key}")), was_there, "{said:?}");
    }
    let rest = |mut whole: Table| {
        for (table, key, _) in TAKEN.into_iter().filter(|(_, key, _)| goes(key)) {
            if let Some(inner) = whole.get_mut(table).and_then(Value::as_table_mut) {
                inner.remove(key);
            }
            // A dotted key was all that there was of its table.
            if whole.get(table).and_then(Value::as_table).is_some_and(Table::is_empty) {
                whole.remove(table);
            }
        }
        // Text, because what is not a number is not even equal to itself.
        format!("{whole:?}")
    };
    assert_eq!(rest(before.clone()), rest(after), "something else was changed");
    if goes("password") {
        for secret in secrets(&before).filter(|secret| is_once(text, secret)) {
            assert!(!left.contains(secret), "{left:?} holds a secret");
        }
        if let Ok(Sections { wifi, fleet, .. }) = sections(left) {
            assert!(wifi.is_none_or(|wifi| wifi.password.is_none()), "the Wi-Fi password can still be read");
            assert!(fleet.is_none_or(|fleet| fleet.join_token.is_none()), "the join token can still be read");
        }
    }
}

/// What the provider starts with holds what the owner said.
fn made(left: &str) {
    let settings: Table = effective::effective(left).expect("it is right TOML").parse().expect("it stays so");
    for (name, value) in left.parse::<Table>().expect("it is right TOML") {
        match (value, settings.get(&name)) {
            (Value::Table(inner), Some(Value::Table(with))) => {
                assert!(inner.keys().all(|key| format!("{:?}", inner[key]) == format!("{:?}", with[key])), "[{name}]");
            }
            (value, with) => assert_eq!(format!("{:?}", Some(&value)), format!("{with:?}"), "{name}"),
        }
    }
}

/// The files that are made for the signer and the network.
fn files(text: &str, sections: &Sections) {
    let shown = format!("{sections:?}");
    if let Some(wifi) = &sections.wifi {
        if let Some(password) = &wifi.password {
            assert!(!is_once(text, password.reveal()) || !shown.contains(password.reveal()), "a secret is shown");
        }
        let conf = network::wpa(wifi, wifi.password.as_ref());
        let most = 8 + usize::from(wifi.password.is_some());
        assert!(conf.reveal().lines().count() <= most, "{}", conf.reveal());
        assert!(!conf.reveal().chars().any(|sign| sign.is_control() && !"\n\t".contains(sign)));
    }
    if let Some(ethernet) = &sections.ethernet {
        let file = network::fixed(ethernet);
        let mut names = file.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
        let known = "Name Type Kind RequiredForOnline Address LLMNR MulticastDNS DNS Gateway Metric";
        assert!(names.all(|name| known.split(' ').any(|one| one == name)), "{file}");
        assert!(file.lines().count() <= 20 && !file.chars().any(|sign| sign.is_control() && sign != '\n'), "{file}");
    }
    let key = sections.key.unwrap_or_default();
    if let Ok(policy) = policy::signer_toml(text, key) {
        let table: Table = policy.parse().expect("it is right TOML");
        assert!(table.len() == 8 && policy.lines().count() == POLICY_LINES, "{policy}");
    }
}

/// The secrets of settings, those that are long enough to be told from other words.
fn secrets(table: &Table) -> impl Iterator<Item = &str> {
    let places = TAKEN.into_iter().filter(|(.., is_secret)| *is_secret);
    let values = places.filter_map(|(name, key, _)| table.get(name)?.get(key)?.as_str());
    values.filter(|secret| secret.len() >= SECRET_BYTES_MIN && !LEFT.to_lowercase().contains(&secret.to_lowercase()))
}

/// Whether `word` stands in `text` between its quotes and nowhere else.
fn is_once(text: &str, word: &str) -> bool {
    let is_plain = text.contains(&format!("\"{word}\"")) || text.contains(&format!("'{word}'"));
    is_plain && text.matches(word).count() == 1
}
