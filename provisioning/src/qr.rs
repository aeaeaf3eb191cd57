//! Text as a QR code of half-block characters.
//!
//! Invariants: the quiet zone of four modules that readers need is there; light modules are drawn, dark ones are left
//! out, because most terminals are light on dark and some readers do not take an inverted code.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// Half of what the largest code holds: beyond it a code is wider than a terminal, and too fine for a screen.
const TEXT_BYTES_MAX: usize = 1024;

/// `text` as lines for a terminal. `None`: it is too long to be read from a screen.
pub(crate) fn of(text: &str) -> Option<String> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let mut lines = code.render::<Dense1x2>();
    Some(lines.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_quiet_zone_and_its_corners() {
        // Version 1: 21 modules and two times four around them, two rows to a line.
        let code = of("HELLO").expect("it is short");
        let lines: Vec<Vec<char>> = code.lines().map(|line| line.chars().collect()).collect();
        assert_eq!(lines.len(), 15);
        assert!(lines.iter().all(|line| line.len() == 29), "{code}");
        assert!(lines[..2].iter().flatten().all(|each| *each == '█'), "above the code it is light");
        assert!(
            lines.iter().all(|line| line[..4].iter().chain(&line[25..]).all(|each| "█▀".contains(*each))),
            "{code}"
        );
        // Seven dark above one dark and five light and one dark.
        let corner: String = lines[2][4..11].iter().collect();
        assert_eq!(corner, " ▄▄▄▄▄ ");
        assert_eq!(of(&"x".repeat(TEXT_BYTES_MAX + 1)), None);
    }
}
