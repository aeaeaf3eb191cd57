//! The card: what a person who stands before the machine needs, as plain text for its screen.
//!
//! Invariants: at most [`COLUMNS_MAX`] columns and [`LINES_MAX`] lines; nothing but printable ASCII and the three block
//! signs of the QR code, so that it reads on any terminal and steers none.
//!
//! The code stands beside the words, because the smallest text screen has 25 lines and the code takes 21 of them.

pub mod console;

use std::fmt::Write;

use qrcode::types::{Color, QrError};
use qrcode::{EcLevel, QrCode};

use crate::face::{Face, GpuRow};

/// The narrowest text screen that machines have.
pub const COLUMNS_MAX: usize = 80;

/// Lines of a card at most. A smaller screen loses what stands below the code.
pub const LINES_MAX: usize = 40;

/// Light modules around a QR code. Source: ISO/IEC 18004.
pub(crate) const QUIET: usize = 4;

/// Columns between the code and the words beside it.
const GAP: usize = 2;

/// Said of a machine that has no address.
const NO_NETWORK: &str = "no address yet: is the cable in, or the Wi-Fi in rig.toml right?";

/// The card of a rig.
pub fn card(face: &Face) -> String {
    let mut text = String::new();
    let mut line = |words: &str| {
        let shown: String = words.chars().take(COLUMNS_MAX).collect();
        // Writing to a string never fails.
        let _ = writeln!(text, "{}", shown.trim_end());
    };
    line(&format!(" {}  (rig software {})", face.name, face.version));
    line(&format!(" address  {}", face.address));
    line(&format!(" owner    {} (wished in rig.toml)", face.owner));
    let code = code_lines(&face.link()).unwrap_or_default();
    let width = code.first().map_or(0, |row| row.chars().count());
    let words = words(face, COLUMNS_MAX - width - GAP);
    let lines = code.len().max(words.len()).min(LINES_MAX - 3);
    for at in 0..lines {
        let left = code.get(at).map_or("", String::as_str);
        let right = words.get(at).map_or("", String::as_str);
        line(&format!("{left:width$}{:GAP$}{right}", ""));
    }
    text
}

/// What stands beside the code, in lines of at most `width` columns. The first are the most urgent.
fn words(face: &Face, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |title: &str, text: &str| {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(title.to_owned());
        lines.extend(wrapped(text, width - 2).into_iter().map(|line| format!("  {line}")));
    };
    say("PAIRING CODE", &face.code);
    if !face.next.is_empty() {
        say(&format!("TROUBLE {}", face.state_code), face.what);
        say("WHAT TO DO", face.next);
    }
    if let Some(silence) = &face.silence {
        say("SIGNER", silence);
    }
    for notice in &face.notices {
        say("NOTICE", &format!("{} {}", notice.what, notice.next.join(" ")));
    }
    say("DOING", &doing(face));
    if let Some(trouble) = &face.trouble {
        say("TROUBLE", trouble);
    }
    match &face.network {
        Some(addresses) if addresses.is_empty() => say("NETWORK", NO_NETWORK),
        Some(addresses) => say("NETWORK", &addresses.join(", ")),
        None => {}
    }
    if !face.gpus.is_empty() {
        say("GPU", &gpus(&face.gpus));
    }
    say("TIER", &face.kept);
    lines
}

/// How many of each kind there are, and how they are.
fn gpus(rows: &[GpuRow]) -> String {
    let mut kinds: Vec<(usize, String)> = Vec::new();
    for row in rows {
        let kind = format!("{} {}", row.model, row.state);
        match kinds.iter_mut().find(|(_, known)| *known == kind) {
            Some((count, _)) => *count += 1,
            None => kinds.push((1, kind)),
        }
    }
    let kinds: Vec<_> = kinds.into_iter().map(|(count, kind)| format!("{count} x {kind}")).collect();
    kinds.join(", ")
}

/// What the rig is doing, in a sentence.
pub fn doing(face: &Face) -> String {
    let phase = face.phase.as_deref().unwrap_or("starting");
    match (face.is_draining, face.is_paired, face.tasks) {
        (true, _, _) => "ending: begun work is finished first".to_owned(),
        (false, true, Some((running, paid))) => {
            format!("{phase}; {} sources, {running} tasks running, {paid} paid", face.sources_known)
        }
        (false, _, _) => phase.to_owned(),
    }
}

/// The text as a QR code in half blocks, light on dark as screens are. Errors: it is too long for one.
fn code_lines(text: &str) -> Result<Vec<String>, QrError> {
    // A screen is not scratched; the smallest code leaves most room.
    let code = QrCode::with_error_correction_level(text, EcLevel::L)?;
    let modules = code.width();
    let is_light = |row: usize, column: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < modules);
        let (Some(row), Some(column)) = (inside(row), inside(column)) else { return true };
        code[(column, row)] == Color::Light
    };
    let across = modules + 2 * QUIET;
    let sign = |row: usize, column: usize| match (is_light(row, column), row + 1 < across && is_light(row + 1, column))
    {
        (true, true) => '\u{2588}',
        (true, false) => '\u{2580}',
        (false, true) => '\u{2584}',
        (false, false) => ' ',
    };
    let rows = (0..across).step_by(2);
    Ok(rows.map(|row| (0..across).map(|column| sign(row, column)).collect()).collect())
}

/// The text in lines of at most `width` signs, broken between words where they fit; what is no printable ASCII is `?`.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let is_shown = |sign: char| sign.is_ascii_graphic() || sign == ' ';
    let shown: String = text.chars().map(|sign| if is_shown(sign) { sign } else { '?' }).collect();
    let mut lines: Vec<String> = Vec::new();
    for word in shown.split_whitespace() {
        let mut word = word;
        if let Some(line) = lines.last_mut().filter(|line| line.len() + 1 + word.len() <= width) {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        // ASCII only: every byte is a place to cut.
        while word.len() > width {
            lines.push(word[..width].to_owned());
            word = &word[width..];
        }
        lines.push(word.to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use boot::notices::Notice;
    use proptest::prelude::*;
    use signer::KeyState;

    use super::*;
    use crate::face::{NoticeRow, samples};

    /// Lines that the smallest text screen shows.
    const SMALL_SCREEN: usize = 25;

    fn is_fit(card: &str) {
        assert!(card.lines().count() <= LINES_MAX, "{card}");
        for line in card.lines() {
            assert!(line.chars().count() <= COLUMNS_MAX, "{line}");
            let is_sign = |sign: char| sign.is_ascii_graphic() || " \u{2588}\u{2580}\u{2584}".contains(sign);
            assert!(line.chars().all(is_sign), "{line:?}");
        }
    }

    #[test]
    fn a_new_rig_fits_the_smallest_screen_and_says_all_that_pairing_needs() {
        let face = samples::fresh();
        let card = card(&face);
        is_fit(&card);
        assert!(card.lines().count() < SMALL_SCREEN, "{card}");
        let address = face.address.to_string();
        for words in ["attic", &address, &face.code, "run `rig pair`", "only this machine", &face.owner.to_string()] {
            assert!(card.contains(words), "{words}: {card}");
        }
    }

    #[test]
    fn every_trouble_is_shown_with_its_code_and_the_way_on() {
        for state in KeyState::ALL.into_iter().filter(|state| *state != KeyState::Open) {
            let card = card(&samples::troubled(state));
            is_fit(&card);
            let first = state.next().split_whitespace().next().expect("a word");
            assert!(card.contains(state.code()) && card.contains("WHAT TO DO") && card.contains(first), "{card}");
        }
    }

    #[test]
    fn the_network_and_the_gpus_are_shown_and_a_missing_network_has_a_way_on() {
        let two = vec!["eno1 192.168.1.20".to_owned(), "wlan0 192.168.1.21".to_owned()];
        let card_of = |addresses| card(&samples::paired().with_network(addresses));
        let shown = card_of(two);
        is_fit(&shown);
        for words in ["192.168.1.20, wlan0", "1 x NVIDIA GeForce RTX 4090", "offered", "needs reset"] {
            assert!(shown.split_whitespace().collect::<Vec<_>>().join(" ").contains(words), "{words}: {shown}");
        }
        let alone = card_of(Vec::new());
        assert!(alone.contains("no address yet"), "{alone}");
    }

    #[test]
    fn a_notice_is_shown_with_what_to_do_and_the_pairing_code_stays_first() {
        let notice = Notice::new("state", "The rig's state is nearly full.", "Use a bigger disk,\nor fewer sources.");
        let card = card(&samples::fresh().with_notices(&[notice]));
        is_fit(&card);
        let at = |words: &str| card.find(words).unwrap_or_else(|| panic!("{words}: {card}"));
        assert!(at("PAIRING CODE") < at("NOTICE") && at("NOTICE") < at("DOING"));
        assert!(card.contains("nearly") && card.contains("sources."), "{card}");
    }

    #[test]
    fn the_code_is_read_as_it_was_written() {
        let lines = code_lines("ethereum:0x7E5F4552091A69125d5DfCb7b8C2659029395Bdf@1071").expect("fits");
        assert_eq!((lines.len(), lines[0].chars().count()), (19, 37));
        // The three corners that a reader looks for: dark frames in a light field.
        let frame: String = lines[2].chars().skip(QUIET).take(7).collect();
        assert_eq!(frame, " \u{2584}\u{2584}\u{2584}\u{2584}\u{2584} ");
        assert!(lines[0].chars().all(|sign| sign == '\u{2588}'), "the quiet zone is light");
        assert!(code_lines(&"x".repeat(3000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_of_anybody_breaks_the_card(text in "\\PC{0,400}", raw in ".{0,400}", chain_id in any::<u64>(), notices in 0..20_usize) {
            let mut face = samples::troubled(KeyState::DiskMoved);
            face.trouble = Some(text.clone());
            face.phase = Some(raw.clone());
            face.silence = Some(raw.clone());
            face.notices = vec![NoticeRow { what: text, next: vec![raw] }; notices];
            face.chain_id = chain_id;
            is_fit(&card(&face));
        }
    }
}
